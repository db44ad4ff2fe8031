"""The parts that all our pages share: templates that escape all text, wording, figures, thumbnails, and styles."""
