# What one does here. ARGS reaches the program: make demo ARGS="--port 7900 --no-browser"

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: demo test lint readme screenshots benchmarks train-vae train-faces train-autoencoder train-text-to-image train-decoder train-style train-lora train-controlnet

demo: .venv/app
	$(BIN)/python apps/main.py $(ARGS)

test: .venv/tests
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check

train-vae: .venv/training
	$(BIN)/accelerate launch training/vae_playground.py $(ARGS)

# Grows 16 -> 32 -> 64 px; run again after a stop, every stage resumes where it was. FACES is the folder of portraits.
FACES ?= ../shared/data/faces
FACE = nice -n 19 $(BIN)/python -m training.faces --grey 1 --resume --log-every 50 --save-every 200 \
	--data $(FACES)/faces-color-128.parquet,$(FACES)/faces-gray-128.parquet
train-faces: .venv/training
	$(FACE) --out runs/faces-16 --channels 160 160 96 --penalty 0.02 --steps 3000 --sample-every 300 --snapshot-every 1500
	$(FACE) --out runs/faces-32 --channels 160 160 96 48 --from runs/faces-16 --penalty 0.02 --batch-size 8 --lr 0.001 --steps 12000 --sample-every 1000 --snapshot-every 2000
	$(FACE) --out runs/faces-64 --channels 160 160 96 48 32 --from runs/faces-32 --penalty 0.1 --batch-size 8 --lr 0.001 --fade-images 12000 --steps 200000 --sample-every 1500 --snapshot-every 5000

# What text to image draws in; run again after a stop. DATA is the folder of the packs; the photographs' licences allow CC BY.
DATA ?= ../shared/data
PHOTOS = $(DATA)/style/flower-daisy.parquet,$(DATA)/style/flower-sunflower.parquet,$(DATA)/faces/faces-color-128.parquet,$(DATA)/style/monet-paintings.parquet
train-autoencoder: .venv/training
	nice -n 19 $(BIN)/python -m training.autoencoder --data $(DATA)/emoji --photos $(PHOTOS) --resume \
		--out runs/emoji-vae $(ARGS)

# After the autoencoder; run again after a stop: make train-text-to-image OBJECTIVE=flow OUT=runs/emoji-flux
OBJECTIVE ?= diffusion
OUT ?= runs/emoji-sd
train-text-to-image: .venv/training
	$(BIN)/python -m training.latents --data $(DATA)/emoji --vae runs/emoji-vae --out runs/emoji-latents
	nice -n 19 $(BIN)/python -m training.preview --data $(DATA)/emoji --resume --out runs/emoji-preview
	nice -n 19 $(BIN)/python -m training.text_to_image --objective $(OBJECTIVE) --data $(DATA)/emoji \
		--resume --out $(OUT) $(ARGS)

# After both nets, for both: a decoder that draws clean pictures from what they guess. Their latents stay what they are.
NETS = emoji-flux emoji-sd
train-decoder: .venv/training
	for net in $(NETS); do [ -e runs/guesses/$$net.safetensors ] || $(BIN)/python -m training.guesses runs/$$net \
		--data $(DATA)/emoji --out runs/guesses/$$net.safetensors || exit 1; done
	nice -n 19 $(BIN)/python -m training.autoencoder --data $(DATA)/emoji --photos $(PHOTOS) --photo-share 0.125 --resume \
		--encoder runs/emoji-vae --guesses $$(echo $(NETS:%=runs/guesses/%.safetensors) | tr ' ' ,) --latent-noise 0.2 \
		--adversarial 1 --lr 4e-4 --steps 5000 --out runs/emoji-decoder $(ARGS)
	for net in $(NETS); do cp runs/emoji-decoder/config.json runs/emoji-decoder/*.safetensors runs/$$net/vae/ || exit 1; done

# From pictures of one's own and metadata.jsonl in PICTURES: make train-lora PICTURES=my-pictures OUT=runs/my-lora ARGS="--model ..."
train-lora: .venv/training
	nice -n 19 $(BIN)/python -m training.lora --data $(PICTURES) --resume --out $(OUT) $(ARGS)

# After text to image, for its latents; run again after a stop.
train-controlnet: .venv/training
	nice -n 19 $(BIN)/python -m training.controlnet --data $(DATA)/emoji --latents runs/emoji-latents --resume \
		--out runs/emoji-sd-canny $(ARGS)

# Two pairs, both directions each; run again after a stop.
STYLE = nice -n 19 $(BIN)/python -m training.style_transfer --data $(DATA) --resume --ngf 24 --identity-every 4 --steps 10000 \
	--log-every 100 --save-every 500 --sample-every 500 --snapshot-every 1000
train-style: .venv/training
	$(STYLE) --pair historic --out runs/historic --a faces/faces-color-128.parquet --b faces/faces-gray-128.parquet \
		--grey-b --where-b "year<1935" --load-size 136 --zoom 1.06 $(ARGS)
	$(STYLE) --pair monet --out runs/monet --b style/monet-paintings.parquet --group-a source --tones 5 \
		--a style/landscape-photos.parquet,style/landscape-photos.parquet,style/flower-sunflower.parquet \
		--load-size 256 --zoom 1.5 --colour-a 0.25 $(ARGS)

readme: .venv/app  # what it repeats: front matter, figures of the models
	$(BIN)/python readme.py

screenshots: .venv/tests
	$(BIN)/python tests/screenshots.py

benchmarks: .venv/tests
	$(BIN)/python tests/benchmarks/startup.py
	$(BIN)/python tests/benchmarks/drag.py
	$(BIN)/python tests/benchmarks/train_step.py
	$(BIN)/python tests/benchmarks/faces.py
	$(BIN)/python tests/benchmarks/style_transfer.py
	$(BIN)/python tests/benchmarks/text_to_image.py

# An empty file stands for each set of packages that is installed; a changed list of pins installs anew.
.venv/app: requirements.txt | .venv/bin/pip
.venv/training: training/requirements.txt .venv/app
.venv/tests: tests/requirements.txt .venv/training
.venv/app .venv/training .venv/tests:
	@echo "Installing $< into .venv; the first time takes a few minutes (torch is large)."
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check -r $<
	@touch $@

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "Trugbild needs Python 3.11 or newer; if it has another name: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("Trugbild needs Python 3.11 or newer; $(PYTHON) is %d.%d." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
