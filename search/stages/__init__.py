"""The stages of a job, one file each: what a trial of the stage does."""
