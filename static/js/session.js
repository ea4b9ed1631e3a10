/** The API key: from the address bar or the sign-in form, kept for this browser tab only. */

const SLOT = "gateway.key";

/**
 * The key in `#key=…`, as `gateway dev` prints it, and the hash without it.
 * @param {string} hash  as `location.hash`
 * @returns {{key: string|null, hash: string}}
 */
export function keyFromHash(hash) {
  const found = /^#key=([^&]+)(?:&(.*))?$/.exec(hash);
  if (!found) return { key: null, hash };
  return { key: decode(found[1]), hash: found[2] ? `#${found[2]}` : "" };
}

/** A stray `%` is part of the key, not a reason to fail. @param {string} text */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * Take a key out of the address bar, so that it is neither bookmarked nor shown on a shared screen.
 * @returns {string|null}
 */
export function takeKeyFromAddress() {
  const { key, hash } = keyFromHash(location.hash);
  if (key) history.replaceState(null, "", location.pathname + location.search + hash);
  return key;
}

/** @returns {string|null} */
export function loadKey() {
  try {
    return sessionStorage.getItem(SLOT);
  } catch {
    return null; // storage is forbidden: one signs in per page load
  }
}

/** @param {string|null} key  `null` forgets it */
export function saveKey(key) {
  try {
    if (key) sessionStorage.setItem(SLOT, key);
    else sessionStorage.removeItem(SLOT);
  } catch {
    // Storage is forbidden: the key lives as long as the page.
  }
}
