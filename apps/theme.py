"""How Trugbild looks: one theme for light and dark, and the accent colour that each tab has of its own.

`var(--accent)` is set by assets/shell.css from the tab that is open, so one theme serves all of them.
"""

from gradio.themes import Base, Color, Size, colors

_STONE = Color(
    "#faf9f7",
    "#f4f2ee",
    "#e7e4de",
    "#d5d0c7",
    "#a59e92",
    "#787166",
    "#57514a",
    "#3d3933",
    "#262320",
    "#191715",
    "#100f0e",
)


class Trugbild(Base):
    """Warm greys, one accent, large round corners, fonts from assets/fonts (shell.css declares them)."""

    def __init__(self):
        super().__init__(
            primary_hue=colors.indigo,
            neutral_hue=_STONE,
            radius_size=Size("4px", "6px", "8px", "12px", "14px", "18px", "24px", name="radius_trugbild"),
            font=["Inter", "system-ui", "sans-serif"],
            font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
        )
        self.name = "trugbild"
        super().set(
            body_background_fill="#faf9f7",
            body_background_fill_dark="#131211",
            background_fill_primary="white",
            background_fill_primary_dark="#1b1a18",
            background_fill_secondary="#f4f2ee",
            background_fill_secondary_dark="#201e1c",
            body_text_color="#211f1c",
            body_text_color_dark="#f1eee8",
            body_text_color_subdued="#6b655c",
            body_text_color_subdued_dark="#a9a297",
            border_color_primary="#e7e4de",
            border_color_primary_dark="#34312d",
            border_color_accent="var(--accent)",
            border_color_accent_dark="var(--accent)",
            color_accent="var(--accent)",
            color_accent_soft="var(--accent-soft)",
            color_accent_soft_dark="var(--accent-soft)",
            block_background_fill="white",
            block_background_fill_dark="#1b1a18",
            block_border_width="1px",
            block_label_background_fill="transparent",
            block_label_background_fill_dark="transparent",
            block_label_border_width="0px",
            block_label_text_color="*body_text_color_subdued",
            block_label_text_color_dark="*body_text_color_subdued",
            block_label_text_weight="500",
            block_title_text_weight="600",
            block_title_text_color="*body_text_color",
            block_title_text_color_dark="*body_text_color",
            block_shadow="none",
            block_shadow_dark="none",
            input_background_fill="#f7f5f2",
            input_background_fill_dark="#262421",
            input_border_color_focus="var(--accent)",
            input_border_color_focus_dark="var(--accent)",
            button_primary_background_fill="var(--accent)",
            button_primary_background_fill_dark="var(--accent)",
            button_primary_background_fill_hover="var(--accent-strong)",
            button_primary_background_fill_hover_dark="var(--accent-strong)",
            button_primary_text_color="var(--on-accent)",
            button_primary_text_color_dark="var(--on-accent)",
            button_primary_border_color="transparent",
            button_primary_border_color_dark="transparent",
            button_secondary_background_fill="#f1eee9",
            button_secondary_background_fill_dark="#2a2825",
            button_secondary_background_fill_hover="#e7e4de",
            button_secondary_background_fill_hover_dark="#34312d",
            button_large_text_weight="600",
            checkbox_background_color_selected="var(--accent)",
            checkbox_background_color_selected_dark="var(--accent)",
            checkbox_border_color_selected="var(--accent)",
            checkbox_border_color_selected_dark="var(--accent)",
            checkbox_label_background_fill_selected="var(--accent-soft)",
            checkbox_label_background_fill_selected_dark="var(--accent-soft)",
            checkbox_label_text_color_selected="*body_text_color",
            checkbox_label_text_color_selected_dark="*body_text_color",
            checkbox_border_radius="5px",
            slider_color="var(--accent)",
            slider_color_dark="var(--accent)",
            link_text_color="var(--accent-text)",
            link_text_color_dark="var(--accent-text)",
            link_text_color_hover="var(--accent-strong)",
            link_text_color_hover_dark="var(--accent-strong)",
            loader_color="var(--accent)",
            loader_color_dark="var(--accent)",
        )
