// Whether the lesson is being recorded, and pausing that. Copy this file; the protocol is in docs/apps.md.

import { useRemoteParticipants, useRoomContext } from "@livekit/components-react";
import { useCallback } from "react";

export interface Recording {
  /** Empty while no recorder is in the room. */
  state: "on" | "paused" | "";
  /** The identities of the participants who are being recorded. */
  participants: string[];
  /** Pauses or resumes; for teachers only, others get an error. */
  setPaused: (paused: boolean) => Promise<void>;
}

export function useRecording(): Recording {
  const room = useRoomContext();
  const recorder = useRemoteParticipants().find((one) => one.isAgent && "recorded_participants" in one.attributes);
  const identity = recorder?.identity;
  const setPaused = useCallback(
    async (paused: boolean) => {
      if (identity) {
        const method = paused ? "recorder/pause" : "recorder/resume";
        await room.localParticipant.performRpc({ destinationIdentity: identity, method, payload: "" });
      }
    },
    [room, identity],
  );
  const state = recorder?.attributes["recording"];
  return {
    state: state === "paused" || state === "on" ? state : "",
    participants: JSON.parse(recorder?.attributes["recorded_participants"] ?? "[]"),
    setPaused,
  };
}
