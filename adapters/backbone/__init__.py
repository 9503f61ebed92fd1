"""The frozen DINO backbone: families, finding and building one, image preprocessing, and the features it gives."""
