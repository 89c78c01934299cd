"""One module a tool, run by the python of the tool's own environment: MODEL and a folder of samples -> an int8 model.

None of them imports qtool.
"""
