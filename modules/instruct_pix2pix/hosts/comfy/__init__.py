"""ComfyUI's side: its nodes, and a guider that has the dual guidance for its samplers."""
