"""`python -m llm_unlearn` and `accelerate launch -m llm_unlearn`: the llm-unlearn command."""

from llm_unlearn.cli import main

if __name__ == "__main__":
    main()
