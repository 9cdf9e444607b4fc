"""What the cards of trained pairs say about their pictures: names, sources, licences, limits. `--pair` picks a line."""

from dataclasses import dataclass

AUTHORS_WARNING = (
    "The authors of CycleGAN: it should only be used with great care and calibration in domains where critical "
    "decisions are to be taken based on its output."
)


@dataclass(frozen=True)
class Pair:
    a: str  # what a picture of domain A is, as a noun
    b: str
    name: str  # of the data
    url: str
    data_licence: str
    attribution: str
    licence: str  # of the weights
    limits: tuple[str, ...] = ()


PAIRS = {
    "own": Pair(
        "picture of A", "picture of B", "pictures of one's own", "https://github.com/junyanz/CycleGAN",
        "that of the pictures", "whoever trained it knows", "other",
    ),
    "historic": Pair(
        "modern colour portrait", "historic photograph",
        "portraits of members of the US Congress", "https://github.com/unitedstates/images",
        "public domain in the United States: works of its government, photographs published before 1931",
        "modern colour portraits and photographs of 1855 to 1929 from github.com/unitedstates/images and "
        "github.com/voteview/member_photos, aligned as FFHQ is",
        "Apache-2.0",
        (
            "Learnt from aligned faces before a plain backdrop; elsewhere in a photo it changes tones alone.",
            "The historic portraits show almost only white men, most with beards, the colour ones mostly men of about "
            "60: beard, smile, age and sex are part of what it takes for the style. It may add a beard, or turn a face "
            "paler or older. It says nothing about anyone's ancestors.",
            "Colours of a historic photograph are invented.",
        ),
    ),
    "monet": Pair(
        "photograph", "painting by Monet",
        "photographs of landscapes and sunflowers, paintings by Claude Monet",
        "https://github.com/hoojaoh/data-stunning",
        "landscapes: CC BY-SA 1.0 to 4.0, Free Art License, GFDL 1.2; sunflowers: CC BY 2.0; paintings: public domain",
        "51 landscape photographs from github.com/hoojaoh/data-stunning, each by its author on Wikimedia Commons; 430 "
        "of sunflowers from TensorFlow's flower_photos, each by its photographer on Flickr; 300 paintings by Claude "
        "Monet (1840-1926) from github.com/sergiuiacob1/monet-photos",
        "CC-BY-SA-4.0",
        (
            "Learnt from 51 landscapes, many of deserts, rock and snow, and from sunflowers. Large areas keep their "
            "colour, as the training wants it; strokes and small colours are Monet's. What stands in a photo stays.",
            "Faces, text and cities are not landscapes: they are painted over, not painted.",
        ),
    ),
    "flowers": Pair(
        "daisy", "sunflower",
        "photographs of daisies and sunflowers (flower_photos)",
        "https://www.tensorflow.org/datasets/catalog/tf_flowers", "CC BY 2.0",
        "daisies and sunflowers of TensorFlow's flower_photos, by the photographers in its LICENSE.txt",
        "CC-BY-4.0",
        ("Colours change more than shapes: petals become yellow or white, their number stays.",),
    ),
    "fruit": Pair(
        "watercolour of an apple", "watercolour of a citrus fruit",
        "USDA Pomological Watercolor Collection", "https://github.com/jwilber/USDA_Pomological_Watercolors",
        "public domain",
        "U.S. Department of Agriculture Pomological Watercolor Collection. Rare and Special Collections, National "
        "Agricultural Library, Beltsville, MD 20705",
        "Apache-2.0",
        ("Knows one fruit and its section on white paper; in a photograph it finds no fruit.",),
    ),
    "emoji": Pair(
        "flat emoji", "emoji with depth",
        "Fluent Emoji", "https://github.com/microsoft/fluentui-emoji", "MIT",
        "Fluent Emoji, Copyright (c) Microsoft Corporation, MIT License",
        "Apache-2.0",
        ("Knows drawings on white; on a photograph it changes little but edges and tones.",),
    ),
}  # fmt: skip
