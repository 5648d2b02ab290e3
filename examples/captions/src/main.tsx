import { LiveKitRoom } from "@livekit/components-react";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { Lesson } from "./Lesson";
import "./page.css";

/** Where to join, from the address: #url=wss://…&token=… (browsers do not send what follows the # to a web server). */
const given = new URLSearchParams(location.hash.slice(1));

function Page() {
  const [problem, setProblem] = useState("");
  const url = given.get("url");
  const token = given.get("token");
  if (!url || !token) {
    return <Notice title="No lesson">This page needs a link with a server and a token in it.</Notice>;
  }
  if (problem) {
    return <Notice title="That did not work">{problem}</Notice>;
  }
  return (
    <LiveKitRoom serverUrl={url} token={token} connect onError={(error) => setProblem(error.message)}>
      <Lesson readsPackets={given.get("captions") === "packets"} />
    </LiveKitRoom>
  );
}

function Notice({ title, children }: { title: string; children: string }) {
  return (
    <main className="notice">
      <h1>{title}</h1>
      <p>{children}</p>
    </main>
  );
}

createRoot(document.getElementById("page")!).render(
  <StrictMode>
    <Page />
  </StrictMode>,
);
