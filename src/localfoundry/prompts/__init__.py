"""What models are asked, where measuring and judging ask the same: the course's questions, and prompts of a file."""
