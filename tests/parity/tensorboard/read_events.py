#!/usr/bin/env python3
"""Reads TensorBoard event files with tensorboard's own reader and says what is there as one line of JSON.

    read_events.py FOLDER        {"TAG": [[wall_time, step, value], ...], ...}
"""
import json
import sys

from tensorboard.backend.event_processing import event_accumulator

accumulator = event_accumulator.EventAccumulator(sys.argv[1], size_guidance={event_accumulator.SCALARS: 0,
                                                                             event_accumulator.TENSORS: 0})
accumulator.Reload()
tags = accumulator.Tags()
read = {tag: [[e.wall_time, e.step, e.value] for e in accumulator.Scalars(tag)] for tag in tags['scalars']}
print(json.dumps(read))
