/** Milliseconds that a JSON web token has left, by its own claims (RFC 7519); Infinity of what is none. */
export function lifetime(token, wall) {
  try {
    const { iat, exp } = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    const left = exp * 1000 - wall, whole = (exp - iat) * 1000; // a page's clock may be wrong
    return [left, whole].filter((each) => each > 0).sort((one, two) => one - two)[0] ?? Infinity;
  } catch {
    return Infinity;
  }
}
