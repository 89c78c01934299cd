"""anatomy: the layers of a model of any maker, as its file asks for them and as onnxruntime runs them.

opened.py    a model as it was read: ports, constants, who made it
grids.py     the scale and zero point of a tensor, through whatever Q/DQ stands there
integers.py  the table of integer operators that other tools write into a file
planned.py   the layers, as the file's Q/DQ ask for them
executed.py  the graph that onnxruntime runs, and what became of each layer
share.py     how much of the work that is in integers
"""
