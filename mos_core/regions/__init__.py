"""Where on the canvas which prompt holds: boxes, masks, layouts."""
