// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package crowd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"chatrun.dev/operator/api/stream"
)

// stampLen is the size of a stamp, which fills until the year 2286.
const stampLen = len("1700000000000000000 ")

// Stamp is what the text of a part begins with whose latency counts.
func Stamp() string { return strconv.FormatInt(time.Now().UnixNano(), 10) + " " }

// maxReturns is how often a reader comes back.
const maxReturns = 5

// maxLine is the longest line that a reader takes: a whole text as one frame.
const maxLine = 32 << 20

// reader is one reader of a group.
type reader struct {
	group *group
	path  string
	conn  io.Closer // guarded by group.mu
	// read reads the answer to its end; nil for one that never reads.
	read func() error

	has       int // guarded by group.mu
	result    Result
	latencies []time.Duration
}

// run reads to the end, on the reader's own goroutine.
func (r *reader) run() {
	err := r.read()
	r.group.ended(r, errors.Join(errors.New("the answer ended"), err))
}

// dial sends the reader's request over a connection of its own.
func (g *group) dial(r *reader, _ int) error {
	conn, err := g.request(r.path, "")
	if err != nil {
		return err
	}
	r.conn = conn
	switch g.Kind {
	case Follow:
		body, err := answer(conn)
		r.read = func() error { return r.follow(body) }
		return err
	case Drain:
		r.read = func() error { return r.drain(conn) }
	}
	return nil
}

// request sends a request for the events after one.
func (g *group) request(path, after string) (net.Conn, error) {
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if g.ReceiveBuffer == 0 {
			return nil
		}
		// Before it is connected, so that no larger window was offered.
		failed := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, g.ReceiveBuffer)
		})
		return errors.Join(failed, err)
	}}
	conn, err := dialer.DialContext(context.Background(), "tcp", g.Addr)
	if err != nil {
		return nil, err
	}
	if after != "" {
		after = "Last-Event-ID: " + after + "\r\n"
	}
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: crowd\r\n%s\r\n", path, after)
	return conn, err
}

// answer reads the header of an answer, and returns its body.
func answer(conn net.Conn) (io.ReadCloser, error) {
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(errors.New(resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}

// client returns a dial for readers over TLS.
func (g *group) client() func(*reader, int) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(g.CA)
	clients := make([]http.Client, len(g.Paths))
	for i := range clients {
		clients[i].Transport = &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
			ForceAttemptHTTP2: g.Streams > 0,
			// Cold, each of many streams would dial.
			MaxConnsPerHost: 1,
		}
	}
	return func(r *reader, i int) error {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://"+g.Addr+r.path, nil)
		if err != nil {
			return err
		}
		resp, err := clients[i/max(g.Streams, 1)].Do(req) //nolint:bodyclose // read closes it
		if err != nil {
			return err
		}
		r.conn, r.read = resp.Body, func() error {
			defer func() { _ = resp.Body.Close() }()
			return r.drain(resp.Body)
		}
		if http2 := resp.ProtoMajor == 2; http2 != (g.Streams > 0) {
			return fmt.Errorf("the server spoke %s", resp.Proto)
		}
		return nil
	}
}

// drain counts the ends of frames.
func (r *reader) drain(from io.Reader) error {
	var last byte
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			r.result.Frames += bytes.Count(buf[:n], []byte("\n\n"))
			if last == '\n' && buf[0] == '\n' {
				r.result.Frames++
			}
			last = buf[n-1]
			r.group.moved(r, r.result.Frames)
		}
		if err != nil {
			return err
		}
	}
}

// draft is what a reader that follows has in its hands.
type draft struct {
	sum  hash.Hash
	size int
	// whole says that the next part is no single one.
	whole bool
	// last is the id of the newest event, done whether that is the last of all.
	last string
	done bool
	// back is how long to wait before coming back.
	back time.Duration
}

// follow reads events until the last one is there.
func (r *reader) follow(body io.ReadCloser) error {
	d := draft{sum: sha256.New()}
	err := r.events(&d, body)
	for ; !d.done && r.result.Returns < maxReturns; r.result.Returns++ {
		<-time.After(d.back)
		conn, failed := r.group.request(r.path, d.last)
		if failed == nil {
			r.group.swap(r, conn)
			body, failed = answer(conn)
		}
		if err = failed; err == nil {
			err = r.events(&d, body)
		}
	}
	r.result.Sum = [sha256.Size]byte(d.sum.Sum(nil))
	r.result.Done = d.done && err == nil
	return err
}

// events reads one answer.
func (r *reader) events(d *draft, body io.ReadCloser) error {
	defer func() { _ = body.Close() }()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLine)
	var event stream.Name
	for lines.Scan() {
		field, value, _ := bytes.Cut(lines.Bytes(), []byte(": "))
		switch string(field) {
		case "id":
			d.last = string(value)
		case "retry":
			ms, err := strconv.Atoi(string(value))
			if err != nil {
				return err
			}
			d.back = time.Duration(ms) * time.Millisecond
		case "event":
			event = stream.Name(value)
		case "data":
			if err := r.take(d, event, value); err != nil {
				return err
			}
			r.result.Frames++
			r.group.moved(r, d.size)
		}
	}
	return lines.Err()
}

// take applies an event to the draft.
func (r *reader) take(d *draft, event stream.Name, data []byte) error {
	switch event {
	case stream.EventDone:
		d.done = true
	case stream.EventReset:
		d.sum.Reset()
		d.size, d.whole = 0, true
		r.result.Resets++
	case stream.EventMessagePart:
		text, err := textOf(data)
		if err != nil {
			return err
		}
		if sent, ok := stampOf(text); ok && !d.whole {
			r.latencies = append(r.latencies, time.Duration(time.Now().UnixNano()-sent))
		}
		d.whole = false
		d.sum.Write(text)
		d.size += len(text)
	}
	return nil
}

// textOf is the text of a part. It goes without a decoder where nothing is
// escaped: the crowd shares the machine with the server.
func textOf(data []byte) ([]byte, error) {
	if _, rest, ok := bytes.Cut(data, []byte(`"text":"`)); ok && bytes.IndexByte(rest, '\\') < 0 {
		return bytes.TrimSuffix(rest, []byte(`"}`)), nil
	}
	var part stream.MessagePart
	err := json.Unmarshal(data, &part)
	return []byte(part.Text), err
}

func stampOf(text []byte) (int64, bool) {
	if len(text) < stampLen {
		return 0, false
	}
	nanos, err := strconv.ParseInt(string(text[:stampLen-1]), 10, 64)
	return nanos, err == nil
}
