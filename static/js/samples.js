/** Jobs to begin with in the form for any type: those of docs/examples.md that have no form of their own. */

/** @typedef {{type: string, label: string, input: unknown}} Sample */

/** @type {Sample[]} */
export const SAMPLES = [
  { type: "echo", label: "Echo", input: { value: "hello", seconds: 2 } },
  { type: "video.transcode", label: "Transcode a video", input: { sample: 10, height: 240 } },
  {
    type: "mail.campaign",
    label: "Send an e-mail campaign",
    input: {
      campaign: "spring",
      sender: "news@shop.example",
      subject: "Spring is here, $name",
      text: "Dear $name,\n\nthe new teas have come: https://shop.example/tea\n\nYour shop",
      sample: 12,
    },
  },
  { type: "sync.products", label: "Sync a product table", input: {} },
  {
    type: "order.process",
    label: "Process an order (saga)",
    input: {
      items: [
        { sku: "TEA-001", quantity: 2, price: 790 },
        { sku: "CUP-001", quantity: 3, price: 550 },
      ],
      seconds: 1,
    },
  },
  {
    type: "order.process",
    label: "Process an order that fails, and is undone",
    input: { items: [{ sku: "TEA-001", quantity: 2, price: 790 }], fail_at: "ship", seconds: 1 },
  },
  {
    type: "social.notify",
    label: "Notify many users",
    input: { actor: "ann", verb: "posted", object: "a picture of the sea", sample: 500 },
  },
];
