"""A small simulator, a program of its own: `python simulator.py <probability of dying in a step>` prints its port.

It answers lines "reset <seed>" and "step <push>" with a position, for one connection after the other. Its environment
is in simulator_env.py."""

import os
import random
import signal
import socket
import sys


def listen() -> socket.socket:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


def serve(listening: socket.socket, dies: float) -> None:
    """Answer for ever, as simulators do."""
    chance = random.Random(os.urandom(8))
    while True:
        connection, _ = listening.accept()
        position = 0.0
        with connection, connection.makefile("rw") as lines:
            for line in lines:
                what, argument = line.split()
                if what == "reset":
                    position = random.Random(int(argument)).uniform(-1, 1)
                elif chance.random() < dies:
                    os.kill(os.getpid(), signal.SIGKILL)
                else:
                    position += 0.1 * float(argument)
                print(position, file=lines, flush=True)


if __name__ == "__main__":
    socket_of_program = listen()
    print(socket_of_program.getsockname()[1], flush=True)
    serve(socket_of_program, float(sys.argv[1]))
