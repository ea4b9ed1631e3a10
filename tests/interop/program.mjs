// What every program here begins with: its task in argv, and one line of JSON for everything it notices.

export const task = JSON.parse(process.argv[2]);

export function say(what, fields = {}) {
  process.stdout.write(`${JSON.stringify({ say: what, ...fields })}\n`);
}

export function end(code = 0) {
  process.exit(code);
}

// The other end of stdin is the test: gone when the test run is gone, and so are we.
process.stdin.on('end', () => end(1)).resume();
