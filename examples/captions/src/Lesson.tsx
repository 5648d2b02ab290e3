import {
  RoomAudioRenderer,
  useConnectionState,
  useLocalParticipant,
  useRemoteParticipants,
  useRoomContext,
  useRoomInfo,
} from "@livekit/components-react";
import { ConnectionState, type LocalParticipant } from "livekit-client";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { type Caption, type Line, linesIn, usePacketCaptions, useStreamCaptions } from "./captions";
import { askForLanguage, directionOf, type Language, useLanguages } from "./languages";
import { useRecording } from "./recording";

const SHOWN_LINES = 30;

export function Lesson({ readsPackets }: { readsPackets: boolean }) {
  return readsPackets ? <PacketLesson /> : <StreamLesson />;
}

function StreamLesson() {
  return <Classroom captions={useStreamCaptions()} />;
}

function PacketLesson() {
  return <Classroom captions={usePacketCaptions()} />;
}

function Classroom({ captions }: { captions: Caption[] }) {
  const [wanted, setWanted] = useWantedLanguage();
  const [withOriginal, setWithOriginal] = useState(true);
  const { localParticipant } = useLocalParticipant();
  const isTeacher = roleOf(localParticipant) === "teacher";
  const lines = linesIn(captions, wanted).slice(-SHOWN_LINES);
  return (
    <div className="lesson">
      <Header>
        <RecordingState isTeacher={isTeacher} />
        <LanguageMenu wanted={wanted} onChange={setWanted} />
        <label className="switch">
          <input
            type="checkbox"
            checked={withOriginal}
            onChange={(event) => setWithOriginal(event.target.checked)}
          />
          Original
        </label>
      </Header>
      <Captions lines={lines} withOriginal={withOriginal} isTeacher={isTeacher} />
      <footer>{isTeacher ? <Microphone /> : <Listening />}</footer>
      <RoomAudioRenderer />
    </div>
  );
}

function Header({ children }: { children: ReactNode }) {
  const { name } = useRoomInfo();
  const state = useConnectionState();
  const isLive = state === ConnectionState.Connected;
  return (
    <header>
      <h1>{name || "Lesson"}</h1>
      <span className={isLive ? "state live" : "state"}>{isLive ? "live" : state}</span>
      <div className="tools">{children}</div>
    </header>
  );
}

/** Everybody sees whether the lesson is recorded; a teacher can pause it. */
function RecordingState({ isTeacher }: { isTeacher: boolean }) {
  const { state, setPaused } = useRecording();
  const [problem, setProblem] = useState("");
  if (!state) {
    return null;
  }
  const isPaused = state === "paused";
  const toggle = () =>
    setPaused(!isPaused).then(
      () => setProblem(""),
      (error: Error) => setProblem(error.message),
    );
  return (
    <>
      <span className={isPaused ? "recording" : "recording on"} role="status">
        {problem || (isPaused ? "Recording paused" : "Recording")}
      </span>
      {isTeacher && <button onClick={() => void toggle()}>{isPaused ? "Resume recording" : "Pause recording"}</button>}
    </>
  );
}

/** The wanted language. It is sent to the room when it changes, and when the room is a new one. */
function useWantedLanguage(): [string, (code: string) => void] {
  const room = useRoomContext();
  const state = useConnectionState();
  const { localParticipant } = useLocalParticipant();
  const [wanted, setWanted] = useState(localParticipant.attributes["captions_language"] ?? "");
  useEffect(() => {
    if (state === ConnectionState.Connected) {
      askForLanguage(room, wanted).catch((error) => console.warn("The language cannot be asked for:", error));
    }
  }, [room, state, wanted]);
  return [wanted, setWanted];
}

function LanguageMenu({ wanted, onChange }: { wanted: string; onChange: (code: string) => void }) {
  const languages = useLanguages();
  const known: Language[] =
    wanted && !languages.some((one) => one.code === wanted)
      ? [{ code: wanted, name: wanted, flag: "" }, ...languages]
      : languages;
  return (
    <select aria-label="Captions in" value={wanted} onChange={(event) => onChange(event.target.value)}>
      <option value="">As spoken</option>
      {known.map(({ code, name, flag }) => (
        <option key={code} value={code}>
          {flag} {name}
        </option>
      ))}
    </select>
  );
}

function Captions(props: { lines: Line[]; withOriginal: boolean; isTeacher: boolean }) {
  const { lines, withOriginal, isTeacher } = props;
  const end = useRef<HTMLLIElement>(null);
  useEffect(() => {
    // In braces: newer browsers return a promise here, which React would take for a clean-up function.
    end.current?.scrollIntoView({ behavior: "smooth", block: "end" });
  }, [lines.length]);
  if (!lines.length) {
    return (
      <main className="empty">
        <p>{isTeacher ? "Switch on your microphone and begin." : "Captions appear here as soon as somebody speaks."}</p>
      </main>
    );
  }
  return (
    <main>
      <ol aria-live="polite">
        {lines.map((line) => (
          <CaptionLine key={line.segment} line={line} withOriginal={withOriginal} />
        ))}
        <li ref={end} className="end" aria-hidden />
      </ol>
    </main>
  );
}

function CaptionLine({ line, withOriginal }: { line: Line; withOriginal: boolean }) {
  const { shown, original } = line;
  return (
    <li className="caption" dir={directionOf(shown.language)} data-segment={line.segment}>
      <time dateTime={new Date(line.start).toISOString()}>{clock(line.start)}</time>
      <p className="text" lang={shown.language}>
        {shown.text}
      </p>
      {withOriginal && shown.id !== original.id && (
        <p className="original" lang={original.language} dir={directionOf(original.language)}>
          {original.text}
        </p>
      )}
    </li>
  );
}

function Microphone() {
  const { localParticipant, isMicrophoneEnabled, lastMicrophoneError } = useLocalParticipant();
  const label = isMicrophoneEnabled ? "Mute" : "Speak";
  return (
    <>
      <button
        className={isMicrophoneEnabled ? "microphone on" : "microphone"}
        onClick={() => void localParticipant.setMicrophoneEnabled(!isMicrophoneEnabled)}
      >
        {label}
      </button>
      <span>{lastMicrophoneError?.message ?? (isMicrophoneEnabled ? "The class hears you." : "You are muted.")}</span>
    </>
  );
}

function Listening() {
  const speakers = useRemoteParticipants()
    .filter((one) => !one.isAgent && one.isMicrophoneEnabled)
    .map((one) => one.name || one.identity);
  return <span>{speakers.length ? `You hear ${speakers.join(", ")}.` : "Nobody speaks just now."}</span>;
}

function roleOf({ metadata }: LocalParticipant): string {
  try {
    return JSON.parse(metadata || "{}").role ?? "";
  } catch {
    return "";
  }
}

function clock(milliseconds: number): string {
  return new Date(milliseconds).toLocaleTimeString(undefined, {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
  });
}
