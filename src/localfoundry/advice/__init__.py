"""What a person is told before a model is loaded or pulled: will it fit, how fast will it be, which one to take.

The arithmetic is in `fit/`; here a machine, a catalog's facts and a version's own header are brought together for it.
Nothing is measured, pulled or loaded.
"""
