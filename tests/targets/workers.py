"""A busy program of several processes and threads, for ./dev run and the tests."""
import multiprocessing
import signal
import threading
import time


def spin(seed):
    x = seed
    while True:
        x = (x * 31 + 7) % 1000003


def worker(seed):
    for i in range(2):
        threading.Thread(target=spin, args=(seed + i,), name=f"spin-{seed + i}", daemon=True).start()
    time.sleep(3600)


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    processes = [multiprocessing.Process(target=worker, args=(n,), daemon=True) for n in range(3)]
    for process in processes:
        process.start()

    def stop(*_):
        for process in processes:
            process.terminate()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    for process in processes:
        process.join()
