// What a page needs to show captions. Copy this file; the two hooks do the same: use one of them.

import { useRoomContext, useTranscriptions } from "@livekit/components-react";
import { type Participant, RoomEvent, type TranscriptionSegment } from "livekit-client";
import { useEffect, useMemo, useState } from "react";

/** One sentence or a few, in one language. */
export interface Caption {
  /** A later caption with the same id replaces this one. */
  id: string;
  /** The same for the captions in all languages of one segment. */
  segment: string;
  /** BCP 47 tag. */
  language: string;
  text: string;
  /** Whether it is in the language spoken. Packets do not say so, but the first caption of a segment is the original. */
  isOriginal?: boolean;
  /** When it was said, in milliseconds since 1970. */
  start: number;
  /** The speaker's identity. */
  speaker: string;
}

/** One segment, and the caption that is shown for it. */
export interface Line {
  segment: string;
  start: number;
  speaker: string;
  original: Caption;
  /** In the wanted language; the original until there is a translation. */
  shown: Caption;
}

/** Captions from text streams, LiveKit's present way. Participants who join late get the last few. */
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
          isOriginal: attributes["language"] === attributes["spoken_language"],
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

/** Groups captions by segment. They arrive in the order spoken. */
export function linesIn(captions: Caption[], wanted: string): Line[] {
  const segments = new Map<string, Caption[]>();
  for (const caption of captions) {
    segments.set(caption.segment, [...(segments.get(caption.segment) ?? []), caption]);
  }
  return [...segments].map(([segment, texts]) => {
    const original = texts.find((one) => one.isOriginal) ?? texts[0]!;
    const { start, speaker } = original;
    return { segment, start, speaker, original, shown: inLanguage(texts, wanted) ?? original };
  });
}

/** Finds the caption in the wanted language, or in a variant of it: `es` for `es-MX`, and `es-MX` for `es`. */
function inLanguage(texts: Caption[], wanted: string): Caption | undefined {
  const isNear = (tag: string) => tag.startsWith(`${wanted}-`) || wanted.startsWith(`${tag}-`);
  return texts.find((one) => one.language === wanted) ?? texts.find((one) => isNear(one.language));
}
