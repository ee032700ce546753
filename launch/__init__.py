"""Programs that start training on other machines; not part of the wheel."""
