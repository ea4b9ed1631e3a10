// npm `centrifuge`: stays connected through some of the server's pings, which are `{}` both ways.

import { connection } from './connection.mjs';
import { end, say, task } from './program.mjs';

let pongs = 0;

function seen(direction, text) {
  const lines = text.split('\n').filter((line) => line.trim());
  const connected = lines.map((line) => JSON.parse(line).connect).find((connect) => connect?.client);
  if (connected) {
    say('connect', connected);
  }
  if (lines.includes('{}')) {
    say(direction === 'in' ? 'ping' : 'pong');
    pongs += direction === 'out';
  }
}

const client = connection({}, seen);
client.connect();
await client.ready();
while (pongs < task.pongs) {
  await client.history(task.channel, { limit: 0 }).catch(() => {}); // a busy connection is pinged as well
  await new Promise((resolve) => setTimeout(resolve, 50));
}
client.disconnect();
end();
