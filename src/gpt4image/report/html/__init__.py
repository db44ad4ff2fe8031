"""What every page of ours is made of: templates that escape all text, wording, figures, thumbnails, the look."""
