// A Centrifuge client on a WebSocket that shows what it sends and gets; everything else is as a stranger would have it.

import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';
import { end, say, task } from './program.mjs';

/** `seen(direction, text)` is told every frame; `headers()` are those of a handshake. */
export function connection(options = {}, seen = () => {}, headers = () => ({})) {
  class Seen extends WebSocket {
    constructor(address) {
      super(address, { headers: headers() });
      this.on('message', (data) => seen('in', data.toString()));
    }

    send(data, ...rest) {
      seen('out', data.toString());
      super.send(data, ...rest);
    }
  }
  const client = new Centrifuge(task.endpoint, { token: task.token, websocket: Seen, ...options });
  client.on('connecting', ({ code, reason }) => say('connecting', { code, reason }));
  client.on('connected', ({ client: id }) => say('connected', { client: id }));
  client.on('error', ({ type, error }) => say('error', { type, code: error.code, message: error.message }));
  client.on('disconnected', ({ code, reason }) => {
    say('disconnected', { code, reason });
    end();
  });
  return client;
}

/** A subscription that tells what happens to it. */
export function subscription(client, channel, options = {}) {
  const made = client.newSubscription(channel, options);
  made.on('subscribing', ({ code, reason }) => say('subscribing', { channel, code, reason }));
  made.on('subscribed', ({ recoverable, positioned, wasRecovering, recovered, streamPosition }) =>
    say('subscribed', { channel, recoverable, positioned, wasRecovering, recovered, position: streamPosition }),
  );
  made.on('unsubscribed', ({ code, reason }) => say('unsubscribed', { channel, code, reason }));
  made.on('error', ({ type, error }) => say('error', { type, code: error.code, message: error.message }));
  made.on('publication', ({ data, offset, info }) => say('publication', { channel, data, offset, info }));
  return made;
}
