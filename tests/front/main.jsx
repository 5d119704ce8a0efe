// What a page does with the package: built by Vite, in StrictMode.
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Bar } from "./Bar.jsx";

const { gateway, operation, token } = Object.fromEntries(new URLSearchParams(location.search));
createRoot(document.getElementById("root")).render(
  <StrictMode><Bar operationId={operation} baseUrl={gateway} token={async () => token} /></StrictMode>,
);
