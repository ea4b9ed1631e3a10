// npm `centrifuge` without a token, as a page whose cookie says who it is: each handshake brings the next of `cookies`.

import { connection } from './connection.mjs';
import { end, say, task } from './program.mjs';

let connected = 0;

function headers() {
  const cookie = task.cookies.shift();
  say('handshake', { cookie });
  return { Origin: task.origin, Cookie: `session=${cookie}` };
}

const client = connection({ minReconnectDelay: 50, maxReconnectDelay: 200 }, undefined, headers);
client.on('connected', () => {
  connected += 1;
  if (connected === 2) {
    end();
  }
});
client.connect();
