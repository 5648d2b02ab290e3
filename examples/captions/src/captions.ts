// What a page needs to show captions. Copy this file; the two hooks do the same, take either.

import { useRoomContext, useTranscriptions } from "@livekit/components-react";
import { type Participant, RoomEvent, type TranscriptionSegment } from "livekit-client";
import { useEffect, useMemo, useState } from "react";

/** One sentence or a few, in one language. */
export interface Caption {
  /** Its own: what comes with the same id takes its place. */
  id: string;
  /** The same for all languages of what was said. */
  segment: string;
  /** BCP 47 tag. */
  language: string;
  text: string;
  /** When it was said, in milliseconds since 1970. */
  start: number;
  /** The speaker's identity. */
  speaker: string;
}

/** What was said, and how it is to be shown. */
export interface Line {
  segment: string;
  start: number;
  speaker: string;
  original: Caption;
  /** In the language that was asked for; the original until there is a translation. */
  shown: Caption;
}

/** Captions from text streams, LiveKit's way today. Whoever joins late gets the last few. */
export function useStreamCaptions(): Caption[] {
  const transcriptions = useTranscriptions();
  return useMemo(
    () =>
      transcriptions.map(({ text, participantInfo, streamInfo }) => {
        const attributes = streamInfo.attributes ?? {};
        return {
          id: attributes["lk.segment_id"] ?? streamInfo.id,
          segment: attributes["segment"] ?? streamInfo.id,
          language: attributes["language"] ?? "",
          text,
          start: Number(attributes["start_time"] ?? streamInfo.timestamp),
          speaker: participantInfo.identity,
        };
      }),
    [transcriptions],
  );
}

/** Captions from transcription packets, as older apps read them. */
export function usePacketCaptions(): Caption[] {
  const room = useRoomContext();
  const [captions, setCaptions] = useState<ReadonlyMap<string, Caption>>(new Map());
  useEffect(() => {
    const take = (segments: TranscriptionSegment[], speaker?: Participant) =>
      setCaptions((before) => {
        const after = new Map(before);
        for (const { id, language, text, startTime } of segments) {
          const segment = id.slice(0, -language.length - 1);
          after.set(id, { id, segment, language, text, start: startTime, speaker: speaker?.identity ?? "" });
        }
        return after;
      });
    room.on(RoomEvent.TranscriptionReceived, take);
    return () => void room.off(RoomEvent.TranscriptionReceived, take);
  }, [room]);
  return useMemo(() => [...captions.values()], [captions]);
}

/** Captions come in the order spoken, and of each segment the original first. */
export function linesIn(captions: Caption[], wanted: string): Line[] {
  const segments = new Map<string, Caption[]>();
  for (const caption of captions) {
    segments.set(caption.segment, [...(segments.get(caption.segment) ?? []), caption]);
  }
  return [...segments].map(([segment, texts]) => {
    const original = texts[0]!;
    const { start, speaker } = original;
    return { segment, start, speaker, original, shown: inLanguage(texts, wanted) ?? original };
  });
}

/** `es-MX` may be read in `es`, and `es` in `es-MX`. */
function inLanguage(texts: Caption[], wanted: string): Caption | undefined {
  const isNear = (tag: string) => tag.startsWith(`${wanted}-`) || wanted.startsWith(`${tag}-`);
  return texts.find((one) => one.language === wanted) ?? texts.find((one) => isNear(one.language));
}
