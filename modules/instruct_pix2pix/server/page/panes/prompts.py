"""What to change, in words, and the buttons that begin and end it: on top of the tab, in reach wherever one scrolls."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr


@dataclass(frozen=True)
class PromptPane:
    """The instruction, and the buttons beside it."""

    instruction: gr.Textbox
    instruction_tokens: gr.HTML
    generate: gr.Button
    interrupt: gr.Button
    skip: gr.Button


def build_prompts() -> PromptPane:
    """Make the pane inside the block that is open."""
    with gr.Row(elem_id="img2img_toprow"):
        with gr.Column(elem_id="img2img_prompt_container", elem_classes="ip2p-prompt", min_width=0):
            instruction = gr.Textbox(
                label="Prompt",
                show_label=False,
                placeholder="What to change, such as “make it winter” (Ctrl+Enter generates, Esc interrupts)",
                lines=2,
                max_lines=8,
                elem_id="img2img_prompt",
                html_attributes=gr.InputHTMLAttributes(spellcheck=True),
            )
            instruction_tokens = gr.HTML("", elem_id="img2img_token_counter", elem_classes="ip2p-tokens")
        with gr.Column(elem_id="img2img_actions_column", min_width=0):
            generate = gr.Button("Generate", variant="primary", elem_id="img2img_generate")
            with gr.Row(elem_id="img2img_stopping"):
                interrupt = gr.Button("Interrupt", variant="stop", elem_id="img2img_interrupt", min_width=80)
                skip = gr.Button("Skip", elem_id="img2img_skip", min_width=80)
    return PromptPane(instruction, instruction_tokens, generate, interrupt, skip)
