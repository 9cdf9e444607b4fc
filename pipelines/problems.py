"""What can go wrong through no fault of the program: one sentence each, and checks of plain values. Stdlib only."""

import functools
import re

# str.format fields are the same in apps/locales/{de,en}.yaml under problems.<code>.
SENTENCES = {
    # plain values
    "out_of_range": "{name} is {value}; it must lie between {low} and {high}.",
    "missing": "{name} is missing.",
    "not_a_number": "{name} is {value}, which is not a number.",
    "no_letters": "{name} contains control characters, which belong to no text; delete them.",
    "not_text": "{name} is {value}, which is not a text.",
    "not_whole": "{name} is {value}; it must be a whole number between {low} and {high}.",
    "too_long": "{name} has {length} characters; at most {most} are read.",
    "unknown_setting": "{name} is not a setting of this tab.",
    "unknown_example": "There is no example picture called {value}.",
    "same_axis": "Both axes are {axis}; pick two different ones.",
    "code_size": "The code has the shape {value}; each must have {expected} numbers.",
    "unknown_choice": "{name} is {value}; it must be one of: {choices}.",
    # models
    "unknown_model": "There is no model called {model} here.",
    "unknown_tab": "There is no tab called {tab} here.",
    "model_files_missing": "The files of {model} are not here; fetch the repository again or train the model.",
    "model_broken": "{model} cannot be loaded: its files are damaged or belong to another kind of model.",
    "other_weights": "This picture was made with an earlier version of {model}; drawn again, it will look different.",
    "memory": "{model} needs about {needed} MB of memory, but only {budget} MB may be used; pick a smaller model.",
    "memory_setting": "TRUGBILD_MEMORY_MB is {value}; it must be a whole number of megabytes above 0.",
    # folders of one's own
    "folder_missing": "There is no readable folder called {folder}.",
    "folder_unknown": "{folder} holds no model known here: neither training.json nor a config.json of diffusers.",
    "folder_helper": "{folder} holds a net that others use by themselves, nothing to pick; choose another folder.",
    "folder_broken": "training.json in {folder} cannot be read: {field} is missing or wrong.",
    "folder_pickle": "{folder} holds no weights as safetensors; other formats can run code and are not opened.",
    "weights_pickle": "{file} holds more than plain tensors and is not opened because it could run code.",
    "weights_broken": "{file} is damaged or was cut off; download it again.",
    "weights_mismatch": "{file} does not fit the model: {key} is missing, superfluous or has the wrong shape.",
    # the hub
    "offline": "{model} must be downloaded once, but the hub cannot be reached; connect to the network and try again.",
    "offline_mode": "{model} must be downloaded once, but HF_HUB_OFFLINE forbids it; unset it and try again.",
    "unauthorised": "The hub refuses {model}: it is gone or your access token is missing or wrong; run hf auth login.",
    "gated": "{model} asks for its licence to be accepted; accept it on {url}, run hf auth login and try again.",
    "gone": "The hub no longer has {model} in the version this app uses; pick another model.",
    "hub_failed": "The hub answered with error {status} when asked for {model}; try again later.",
    "cut_off": "The download of {model} broke off; try again.",
    "hash_mismatch": "{file} of {model} is not the expected file and was deleted; try again or pick another model.",
    "disk_full": "There is no room on the disk to download {model}; free some and try again.",
    "cache_locked": "{model} cannot be saved: the folder for downloads is write-protected; change that first.",
    # pictures
    "no_picture": "There is no picture; draw or open one first.",
    "picture_unreadable": "This file is not a picture that can be read here; use PNG, JPEG, WebP, GIF, BMP or TIFF.",
    "picture_heic": "HEIC pictures cannot be read here; save the picture as JPEG or PNG and open that.",
    "picture_broken": "This picture is damaged or was cut off; save or download it again.",
    "picture_too_large": "This picture is too large; at most {limit} megapixels can be read.",
    "picture_depth": "The numbers in this picture have no agreed range; save it as a PNG with 8 or 16 bits.",
    "no_test_set": "The test pictures are not here; start the app with --data and the folder of MNIST.",
    "own_photo": "This was made from a photo of your own, which is not kept; open that photo first.",
    # faces
    "people_count": "{name} has {value} entries; {low} to {high} are possible.",
    "no_real_faces": "There are no real faces here; upload portraits or start the app with --data and their folder.",
    "no_real_faces_pyarrow": "There are no real faces here; upload portraits or start the app with --data and their "
    "folder (parquet files take the package pyarrow, which is not installed).",
    "face_code": "This is not the code of a face, or that of another model; copy the whole link again.",
    "too_many_codes": "So many codes of faces do not fit into a recipe; use at most {most} people here.",
    "codes_walk_in_w": "A face that is a code has no z; walk through w, or between seeds only.",
    "no_discriminator": "{model} comes without its discriminator; pick a model that has one.",
    "seeds_only": "A face that is a code belongs to the finished model; choose seeds to see how it learnt.",
    "no_stages": "No earlier stages of {model} were kept; pick another model.",
    "no_compiler": "The fast mode needs a C++ compiler, and there is none here; install one or switch it off.",
    "checksum_unknown": "No checksum of {model} is known here; set {variable} to the sha256 of {file} and start again.",
    "checksums_unknown": "No checksums of {model} are known here; set {variable} to the sha256 of its {n} files, "
    "separated by a comma, in this order: {folders}; and start again.",
    # style transfer
    "no_direction": "{model} knows the other direction only; switch the direction or pick another model.",
    "one_direction": "There and back takes both directions, and {model} has only one; pick another model.",
    # text to image
    "axis_length": "{name} has {value} values; 1 to {most} are possible.",
    "too_many_cells": "The grid would have {value} pictures; at most {most} are possible, so strike out some values.",
    "unknown_pipeline": "{model} is a {value}, which this app cannot drive; pick another model.",
    "no_look_inside": "Nobody can look into {model} here; pick one of the small models, Stable Diffusion 1.5 or "
    "FLUX.1 schnell.",
    "not_multiple": "{name} is {value}; it must be a multiple of {multiple}.",
    "cannot_be_given": "{model} cannot be given that together ({what}); pick another model or leave something out.",
    "no_instructions": "{model} does not change pictures by instruction; FLUX.1 Kontext, FLUX.2 and Qwen-Image-Edit "
    "do, so pick one of them or another way.",
    "empty_mask": "Nothing is marked to be drawn anew; brush over a place first.",
    "no_controlnet": "No ControlNet goes with {model} here, but one does with {models}; pick one of those.",
    "not_followed": "No ControlNet of {model} follows that ({name}); pick another condition, edges for example.",
    "guide_never": "The control begins at {begin} and ends at {end}, so it never counts; let it end later.",
    "no_step_left": "Of {steps} steps none is left at strength {strength}; take more steps or a higher strength.",
    "no_negative_prompt": "{model} knows no negative prompt; empty that field or pick another model.",
    "nothing_to_change": "{model} changes pictures; open one and say what is to become of it.",
    "package_missing": "{model} needs a Python package that is not installed here (torchvision, most likely); install "
    "it and start again.",
    "plan_public": "In public nobody can choose how a model is loaded, because that would change it for everybody; "
    "start the app on a machine of your own.",
    "plan_setting": "{name} is {value}, which is none of: {choices}; correct TRUGBILD_TEXT_PLAN.",
    "wrong_base": "{name} goes with {base}, not with {model}; pick that model or leave it out.",
    "lora_misfit": "{name} holds no change that fits {model}; it was made for another kind of model or is damaged.",
    "not_downloaded": "{model} has not been downloaded yet; draw a single picture with it first.",
    "nothing_to_compare": "None of these models can be used here; pick others.",
    "unsafe_prompt": "The word “{word}” is refused in prompts where the app is public; take other words.",
    "unsafe_picture": "The check of pictures refuses this one of {model} as unsuitable to be shown in public; take "
    "other words or another seed.",
    "no_checker": "Pictures of {model} have to be checked before they are shown in public, and what checks them is not "
    "at hand; pick another model.",
    # texts of other tools
    "parameters_format": "Only PNG, JPEG and WebP files carry parameters.",
    "no_parameters": "There are no parameters in it; paste the text that stands below a picture in A1111 or Forge, or "
    "open the file as saved there.",
    "parameters_broken": "These parameters cannot be used: {field} cannot be read.",
    "parameters_too_large": "The parameters in this picture are longer than {limit} kB and are not read.",
    # conditions of ControlNet
    "no_pose": "No person was found in this picture; take one in which somebody can be seen from head to foot.",
    "no_detector": "{name} needs the package controlnet-aux with a torchvision that fits torch, and one of them is "
    "missing here; install them or pick another condition, canny for example.",
    "revision_unknown": "No version of {model} is pinned here; set {variable} to the commit that {url} shows under "
    "Files, and start again.",
    "too_large_to_upscale": "This picture would become {width} x {height} pixels large; at most {limit} megapixels and "
    "{side} pixels a side are possible, so take a smaller one or enlarge it less.",
    "upscaler_setting": "{variable} names neither the file {file} nor a folder with it; set it anew or leave it out.",
    # one's own face
    "no_face": "No face was found in this picture; take one in which a face looks into the camera in good light.",
    "several_faces": "There are {count} faces in this picture; cut out the one that is meant.",
    "face_profile": "This face is seen from the side; take a picture in which it looks into the camera.",
    "face_too_small": "The face is only {side} pixels wide, hair and chin included; at least {least} are needed, "
    "so open a larger picture.",
    # drawings
    "empty_drawing": "The drawing is empty; draw something first.",
    "bad_drawing": "This is not a drawing; a drawing has at most {points} points "
    "with whole coordinates from 0 to {size}.",
    "blank_picture": "Nothing in this picture stands out from its background.",
    # recipes
    "no_recipe": "This picture carries no recipe; only pictures made and saved by this app do.",
    "recipe_format": "Only PNG and WebP files carry a recipe.",
    "recipe_too_large": "The recipe in this picture is longer than {limit} kB, so it was not made by this app.",
    "recipe_broken": "The recipe in this picture cannot be used: {field} is missing or wrong.",
}


def plain(value: object) -> str | int | float:
    """A value as it may stand in a sentence: numbers as they are, anything else as one short line."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) < 1e15:
            return value
        if isinstance(value, int):  # Python refuses to print thousands of digits
            return f"{'-' * (value < 0)}10^{int(abs(value).bit_length() * 0.30103)}"
    return brief(re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", str(value)[:200]).strip())


def brief(text: str) -> str:
    """At most 80 characters; of a list whole names."""
    if len(text) <= 80:
        return text
    names, comma, _ = text[:79].rpartition(", ")
    return f"{names}, …" if comma else text[:79] + "…"


class Problem(ValueError):
    """Something a person can cause or mend. `code` and `values` let the app say it in the person's language."""

    def __init__(self, code: str, **values: object):
        self.code = code
        self.values = {name: plain(value) for name, value in values.items()}
        super().__init__(SENTENCES[code].format(**self.values))

    def __reduce__(self):  # ZeroGPU sends exceptions between processes
        return functools.partial(Problem, self.code, **self.values), ()


def number(name: str, value: object, low: float, high: float) -> float:
    """`value` as a float in [low, high], or a Problem that names it; strings, bools, NaN and infinities are none."""
    if value is None or value == "":
        raise Problem("missing", name=name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Problem("not_a_number", name=name, value=value)
    if not low <= value <= high:  # false for NaN, too
        raise Problem("out_of_range", name=name, value=value, low=low, high=high)
    return float(value)


def whole(name: str, value: object, low: int, high: int) -> int:
    """`value` as an int in [low, high]; 3.0 counts as 3 because sliders and JSON say so."""
    result = number(name, value, low, high)
    if not result.is_integer():
        raise Problem("not_whole", name=name, value=value, low=low, high=high)
    return int(value)


def choice(name: str, value: object, choices) -> str | int:
    """`value` if it is one of the strings or numbers in `choices`."""
    if value is None:
        raise Problem("missing", name=name)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value not in choices:
        raise Problem("unknown_choice", name=name, value=value, choices=", ".join(map(str, choices)))
    return value


def switch(name: str, value: object) -> bool:
    """`value` if it is true or false."""
    if not isinstance(value, bool):
        raise Problem("unknown_choice", name=name, value=value, choices="true, false")
    return value


def seed(value: object) -> int:
    """`value` as a seed in 0..2**32 - 1."""
    return whole("seed", value, 0, 2**32 - 1)
