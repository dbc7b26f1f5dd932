"""LoRA-Composer: several concepts in one picture, unmerged, each in its region."""
