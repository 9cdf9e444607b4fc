"""The page. Nothing here knows torch."""

from gradio import component_meta

# gradio writes a .pyi file beside each module that defines a component: that costs start-up time and litters the tree.
component_meta.create_or_modify_pyi = lambda *_: None
