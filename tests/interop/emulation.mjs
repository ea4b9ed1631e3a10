// npm `centrifuge` where WebSockets do not exist: http_stream or sse, commands to an address of their own.

import { Centrifuge } from 'centrifuge';
import { EventSource } from 'eventsource';
import { subscription } from './connection.mjs';
import { end, say, task } from './program.mjs';

const transports = task.transports.map((transport) => ({ transport, endpoint: `${task.endpoint}/connection/${transport}` }));
const client = new Centrifuge(transports, {
  token: task.token,
  websocket: class {
    constructor() {
      throw new Error('WebSockets do not get through here');
    }
  },
  eventsource: EventSource,
  emulationEndpoint: `${task.other}/emulation`,
  maxReconnectDelay: 1000,
});
client.on('connecting', ({ code, reason }) => say('connecting', { code, reason }));
client.on('connected', ({ client: id, transport }) => say('connected', { client: id, transport }));
client.on('error', ({ type, error }) => say('error', { type, code: error.code, message: error.message }));
client.on('disconnected', ({ code, reason }) => {
  say('disconnected', { code, reason });
  end();
});
const chat = subscription(client, task.channel, { recoverable: true });
chat.on('publication', ({ data }) => {
  if (data === 'end' || data?.data === 'end') {
    end();
  }
});
chat.subscribe();
client.connect();
await chat.ready();
for (const said of task.said) {
  await client.publish(task.channel, said);
  say('published', { said });
}
