"""The report's figures: small matplotlib panels as inline SVG that takes its colours from the page."""
