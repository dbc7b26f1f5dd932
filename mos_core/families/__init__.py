"""The one seam of model families: what a family is, as tables. Nothing here touches a tensor."""
