"""Asks moto's evaluator of IAM policies: standard input is {"policy": ..., "questions": [[action, resource], ...]},
standard output a list of true (allowed) and false."""

import json
import sys

from moto.iam.access_control import IAMPolicy, PermissionResult

asked = json.load(sys.stdin)
# It turns `*` into a regular expression's `.*`, and leaves `?` as it stands.
policy = IAMPolicy(json.dumps(asked["policy"]).replace("?", "."))
answers = []
for action, resource in asked["questions"]:
    told = policy.is_action_permitted(action, resource)
    answers.append(told == PermissionResult.PERMITTED)
json.dump(answers, sys.stdout)
