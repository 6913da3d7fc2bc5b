"""Sizes that let a lab run in well under a minute: everything runs, nothing is learned."""

SIZES = {
    "TRAIN_DIALOGUES": 96,
    "VALIDATION_DIALOGUES": 6,
    "TEST_DIALOGUES": 8,
    "MAX_NEW_TOKENS": 16,
    "BATCH_SIZE": 16,
    "FULL_EPOCHS": 1,
    "LORA_EPOCHS": 1,
    "SWEEP_STEPS": 2,
    "SWEEP_SEEDS": 1,
    "PPO_STEPS": 2,
    "PPO_SEEDS": 2,
    "PPO_BATCH_SIZE": 4,
    "PPO_GENERATIONS": 2,
    "JUDGED_DIALOGUES": 8,
    "ORDINARY_DIALOGUES": 24,
}


def variables(**changes: object) -> dict[str, str]:
    """Return the sizes as variables for a lab's process, with these changes."""
    return {f"LABS_{name}": str(value) for name, value in (SIZES | changes).items()}
