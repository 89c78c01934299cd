"""inspection: what a model is, what onnxruntime runs of it, what that costs, and what to do about it; of any maker.

causes.py    why a layer is float
findings.py  the table of rules: what costs speed, accuracy or trust; finders.py looks for it in a look.py
speed.py     latency beside float, and the time of each node
errors.py    the SQNR after each tensor and layer, and of each layer alone
verdict.py   one line, and the next step
inspect.py   all of it in order: `inspect_model`

Of a float model (float_model.py): suggestions.py and pictures.py, the options that it asks for; prospects.py, what each
target makes of it; unusual.py. Of a calibration file: calibration_file.py. What two files differ in: diff.py, and a
file for each kind.
"""
