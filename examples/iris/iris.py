"""Learns the species of iris flowers from Fisher's measurements and predicts those of the rows given.

A Gaussian naive Bayes classifier in the standard library alone. Input: {"rows": [[5.1, 3.5, 1.4, 0.2], ...]}, four lengths
in centimetres each. Every fifth flower is kept from training and used to test. The result goes to file descriptor 3.
"""

import csv
import json
import math
import os
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
FEATURES = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


def read_flowers(path):
    with open(path, encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [([float(row[name]) for name in FEATURES], row["species"]) for row in rows]


def train(flowers):
    """Mean and standard deviation of each feature, for each species."""
    species = {}
    for features, name in flowers:
        species.setdefault(name, []).append(features)
    return {
        name: [(statistics.mean(column), statistics.stdev(column)) for column in zip(*rows)]
        for name, rows in species.items()
    }


def predict(model, features):
    """The most likely species and its probability, all species being equally frequent."""
    logs = {
        name: sum(
            -math.log(sigma) - (x - mu) ** 2 / (2 * sigma**2) for x, (mu, sigma) in zip(features, gaussians)
        )
        for name, gaussians in model.items()
    }
    top = max(logs.values())
    weights = {name: math.exp(value - top) for name, value in logs.items()}
    best = max(weights, key=weights.get)
    return best, weights[best] / sum(weights.values())


def read_input():
    rows = json.load(sys.stdin).get("rows", [])
    for number, row in enumerate(rows, 1):
        if len(row) != len(FEATURES) or not all(isinstance(x, (int, float)) for x in row):
            sys.exit(f"ERROR: row {number} must be four numbers, {', '.join(FEATURES)}; it is {row}")
    return rows


def main():
    rows = read_input()
    flowers = read_flowers(os.path.join(HERE, "iris.csv"))
    test = flowers[::5]
    train_on = [flower for number, flower in enumerate(flowers) if number % 5 != 0]
    print(f"read {len(flowers)} flowers: {len(train_on)} to train, {len(test)} to test")

    model = train(train_on)
    for name, gaussians in model.items():
        length, width = gaussians[2:]
        print(f"trained {name}: petals {length[0]:.2f}±{length[1]:.2f} by {width[0]:.2f}±{width[1]:.2f} cm")

    guesses = [(name, predict(model, features)[0]) for features, name in test]
    wrong = [(name, guess) for name, guess in guesses if name != guess]
    for name, guess in wrong:
        print(f"WARNING: a {name} was taken for a {guess}")
    accuracy = 1 - len(wrong) / len(test)
    print(f"tested: {len(test) - len(wrong)} of {len(test)} right")

    predictions = []
    for row in rows:
        name, probability = predict(model, row)
        predictions.append({"row": row, "species": name, "probability": round(probability, 4)})
    with os.fdopen(3, "w") as result:
        json.dump({"accuracy": round(accuracy, 4), "predictions": predictions}, result)


main()
