"""What a picture from words may be asked for: limits and names of text_to_image.py. Stdlib only."""

STEPS = (1, 100)
GUIDANCE = (0.0, 20.0)
LONGEST_PROMPT = 1000  # characters
# What solves the differential equation, in the order of the picker, for nets that predict noise (or v) and for nets
# that predict the flow's direction; "" is the model's own.
SAMPLERS = {
    "diffusion": ("DDIM", "DDPM", "DPM++ 2M", "Euler", "Euler a", "UniPC"),
    "flow": ("Euler", "UniPC"),
}
EVERY_SAMPLER = tuple(dict.fromkeys(name for names in SAMPLERS.values() for name in names))
