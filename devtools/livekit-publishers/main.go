// Publishes one recording into many rooms at once: in each room a teacher joins, publishes a microphone and sends the
// recording in real time. Its Opus packets are read once and sent as they are, so that thirty teachers take a small part
// of a core, and the machine is left to what is measured.
//
//	publishers -rooms 30 -prefix bell- lecture.ogg
//
// The server and its key are read from LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET. Every page of the file must
// hold one packet. The sender does not wait for listeners: the recording's position is the time since it was published.
// A line of JSON is printed for each room when its microphone has been published, and another when all has been sent.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/livekit/protocol/auth"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
	"github.com/pion/webrtc/v4/pkg/media"
	"github.com/pion/webrtc/v4/pkg/media/oggreader"
)

const packetTime = 20 * time.Millisecond

var (
	count    = flag.Int("rooms", 1, "number of rooms, all opened at once")
	prefix   = flag.String("prefix", "room-", "the rooms are named PREFIX0, PREFIX1, ...")
	identity = flag.String("identity", "teacher", "identity of every teacher")
	metadata = flag.String("metadata", `{"role": "teacher"}`, "metadata of every teacher")
	linger   = flag.Duration("linger", 2*time.Second, "time in the room after the last packet")
)

var output sync.Mutex

// A line of the output; times are Unix seconds.
type line struct {
	Room        string  `json:"room"`
	PublishedAt float64 `json:"published_at,omitempty"`
	SentAt      float64 `json:"sent_at,omitempty"`
	LateSeconds float64 `json:"late_seconds,omitempty"` // the greatest delay of a packet
	Error       string  `json:"error,omitempty"`
}

func main() {
	flag.Parse()
	packets, err := readPackets(flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var rooms sync.WaitGroup
	for number := range *count {
		rooms.Go(func() {
			name := fmt.Sprintf("%s%d", *prefix, number)
			if err := teach(name, packets); err != nil {
				report(line{Room: name, Error: err.Error()})
			}
		})
	}
	rooms.Wait()
}

func readPackets(path string) ([][]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	pages, _, err := oggreader.NewWith(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var packets [][]byte
	for {
		packet, header, err := pages.ParseNextPage()
		if errors.Is(err, io.EOF) {
			return packets, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if header.GranulePosition > 0 { // before the first comes the page with the tags
			packets = append(packets, packet)
		}
	}
}

func teach(name string, packets [][]byte) error {
	token, err := auth.NewAccessToken(os.Getenv("LIVEKIT_API_KEY"), os.Getenv("LIVEKIT_API_SECRET")).
		SetVideoGrant(&auth.VideoGrant{RoomJoin: true, Room: name}).
		SetIdentity(*identity).
		SetMetadata(*metadata).
		ToJWT()
	if err != nil {
		return err
	}
	room, err := lksdk.ConnectToRoomWithToken(
		os.Getenv("LIVEKIT_URL"), token, &lksdk.RoomCallback{}, lksdk.WithAutoSubscribe(false))
	if err != nil {
		return err
	}
	defer room.Disconnect()
	track, err := lksdk.NewLocalTrack(webrtc.RTPCodecCapability{
		MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2, SDPFmtpLine: "minptime=10;useinbandfec=1",
	})
	if err != nil {
		return err
	}
	options := &lksdk.TrackPublicationOptions{Name: "microphone"}
	if _, err = room.LocalParticipant.PublishTrack(track, options); err != nil {
		return err
	}
	began := time.Now()
	report(line{Room: name, PublishedAt: seconds(began)})
	late, err := send(track, packets, began)
	if err != nil {
		return err
	}
	report(line{Room: name, SentAt: seconds(time.Now()), LateSeconds: late.Seconds()})
	time.Sleep(*linger)
	return nil
}

// send returns the greatest delay of a packet.
func send(track *lksdk.LocalTrack, packets [][]byte, began time.Time) (time.Duration, error) {
	var late time.Duration
	for number, packet := range packets {
		due := began.Add(time.Duration(number) * packetTime)
		time.Sleep(time.Until(due))
		late = max(late, time.Since(due))
		if err := track.WriteSample(media.Sample{Data: packet, Duration: packetTime}, nil); err != nil {
			return late, err
		}
	}
	return late, nil
}

func seconds(moment time.Time) float64 {
	return float64(moment.UnixMicro()) / 1e6
}

func report(one line) {
	output.Lock()
	defer output.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(one)
}
