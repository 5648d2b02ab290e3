// The menu of languages, and the request for one of them.

import { useRemoteParticipants, useRoomContext } from "@livekit/components-react";
import type { Room } from "livekit-client";
import { useEffect, useState } from "react";

export interface Language {
  /** BCP 47 tag. */
  code: string;
  name: string;
  flag: string;
}

const ATTEMPTS = 5;

/** The languages that the recorder offers; empty until it is in the room. */
export function useLanguages(): Language[] {
  const room = useRoomContext();
  const recorder = useRemoteParticipants().find((participant) => participant.isAgent)?.identity;
  const [languages, setLanguages] = useState<Language[]>([]);
  useEffect(() => {
    let isGone = false;
    if (recorder) {
      void askFor(room, recorder, () => isGone).then((found) => !isGone && setLanguages(found));
    }
    return () => void (isGone = true);
  }, [room, recorder]);
  return languages;
}

async function askFor(room: Room, recorder: string, isGone: () => boolean): Promise<Language[]> {
  for (let attempt = 0; attempt < ATTEMPTS && !isGone(); attempt++) {
    try {
      const answer = await room.localParticipant.performRpc({
        destinationIdentity: recorder,
        method: "get/languages",
        payload: "",
      });
      return JSON.parse(answer);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 1000)); // the recorder has just joined
    }
  }
  return [];
}

/** Asks for captions in a language. The token must allow it: canUpdateOwnMetadata. */
export async function askForLanguage(room: Room, code: string): Promise<void> {
  await room.localParticipant.setAttributes({ captions_language: code });
}

const RIGHT_TO_LEFT = new Set(["ar", "ckb", "dv", "fa", "he", "ks", "ps", "sd", "ug", "ur", "yi"]);

/** A language's direction of writing, for the attribute `dir`. */
export function directionOf(code: string): "ltr" | "rtl" {
  return RIGHT_TO_LEFT.has(code.split("-")[0]!) ? "rtl" : "ltr";
}
