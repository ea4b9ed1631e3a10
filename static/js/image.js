/** A chosen image as base64 that fits into a job's input; too large ones are scaled down here, in the browser. */

const QUALITY = 0.85;
const SHRINK = 0.75;
const TRIES = 12;

/**
 * @param {File} file @param {number} maxBytes  of the image itself, before base64
 * @returns {Promise<{base64: string, bytes: number, scaled: boolean}>}
 * @throws {Error} when the browser cannot read it as an image
 */
export async function imageToFit(file, maxBytes) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error("This file is not an image the browser can read");
  });
  try {
    const blob = file.size <= maxBytes ? file : await scaleDown(bitmap, maxBytes);
    return { base64: await toBase64(blob), bytes: blob.size, scaled: blob !== file };
  } finally {
    bitmap.close();
  }
}

/** @param {ImageBitmap} bitmap @param {number} maxBytes @returns {Promise<Blob>} */
async function scaleDown(bitmap, maxBytes) {
  let scale = Math.min(1, 1600 / Math.max(bitmap.width, bitmap.height));
  for (let tries = 0; tries < TRIES; tries += 1) {
    const blob = await draw(bitmap, scale);
    if (blob.size <= maxBytes) return blob;
    scale *= SHRINK;
  }
  throw new Error("This image cannot be made small enough");
}

/** @param {ImageBitmap} bitmap @param {number} scale @returns {Promise<Blob>} */
function draw(bitmap, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => {
    canvas.toBlob(
      (blob) => (blob ? resolve(blob) : reject(new Error("This image cannot be encoded"))),
      "image/jpeg",
      QUALITY,
    );
  });
}

/** @param {Blob} blob @returns {Promise<string>} */
function toBase64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).split(",", 2)[1] ?? "");
    reader.onerror = () => reject(reader.error ?? new Error("This file cannot be read"));
    reader.readAsDataURL(blob);
  });
}
