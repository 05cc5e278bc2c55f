// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package actor

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// copyBuffer is what the copier reads at a time: as much as a connection holds.
const copyBuffer = 2 << 10

// idleConnections is above any number of streams: each is kept for the next.
const idleConnections = 16 << 10

// headerTimeout is for readers that ask nothing.
const headerTimeout = time.Minute

// Copier is the floor of a relay: it asks the same provider the same question, and
// copies the bytes of the answer to its reader as they come, and decodes nothing.
type Copier struct {
	provider string
	client   http.Client
}

// Question is a body as the manager sends it, for the model of a script.
func Question(model, prompt string) string {
	return fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%q}],"stream":true,"stream_options":{"include_usage":true}}`, model, prompt)
}

// Listen serves copies of a provider's answers at /MODEL, and returns its address.
func (c *Copier) Listen(provider string, addr *string) error {
	c.provider = provider
	// The same buffers as the manager's, so that memory compares.
	c.client.Transport = &http.Transport{
		MaxIdleConns: idleConnections, MaxIdleConnsPerHost: idleConnections, DisableCompression: true,
		ReadBufferSize: copyBuffer, WriteBufferSize: copyBuffer / 2,
	}
	l, err := listen()
	if err != nil {
		return err
	}
	*addr = l.Addr().String()
	server := &http.Server{Handler: c, ReadHeaderTimeout: headerTimeout}
	go func() { _ = server.Serve(l) }() // it ends with the process
	return nil
}

func listen() (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
}

// ServeHTTP implements http.Handler.
func (c *Copier) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resp, err := ask(r.Context(), &c.client, c.provider, strings.TrimPrefix(r.URL.Path, "/"), "copied")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	flusher := http.NewResponseController(w)
	buf := make([]byte, copyBuffer)
	if flusher.Flush() != nil {
		return
	}
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, failed := w.Write(buf[:n]); failed != nil || flusher.Flush() != nil {
				return // the reader went away
			}
		}
		if err != nil {
			return
		}
	}
}

// ask asks a provider for a stream.
func ask(ctx context.Context, client *http.Client, provider, model, prompt string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, provider+"/v1/chat/completions", strings.NewReader(Question(model, prompt)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("the provider answered %s", resp.Status)
	}
	return resp, nil
}

// Bare is the floor of a run with many readers: it writes frames to sockets, one
// write each, as the manager's are on the wire, and does nothing else.
type Bare struct{}

// Listen accepts so many readers, and returns its address.
func (b *Bare) Listen(readers int, addr *string) error {
	l, err := listen()
	if err != nil {
		return err
	}
	*addr = l.Addr().String()
	go b.accept(l, readers)
	return nil
}

func (b *Bare) accept(l net.Listener, readers int) {
	defer func() { _ = l.Close() }()
	conns := make([]net.Conn, 0, readers)
	for len(conns) < readers {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		// What was asked does not matter here; the kernel keeps it.
		conns = append(conns, conn)
	}
	b.play(conns)
}

// bareEpoch is as long as the manager's own.
const bareEpoch = "AAAAAAAAAA"

// FanoutPace is the time between two parts of the run with many readers: that of a slow
// model, of which few parts share a write. Here each is a write of its own.
const FanoutPace = 100 * time.Millisecond

// play answers all, and then writes a frame to each of them so often, until they go.
func (*Bare) play(conns []net.Conn) {
	head := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
	for _, conn := range conns {
		_, _ = conn.Write(head)
	}
	tick := time.NewTicker(FanoutPace)
	defer tick.Stop()
	for seq := 1; ; seq++ {
		<-tick.C
		frame := fmt.Sprintf("id: %s-1-%d\nevent: message_part\ndata: {\"role\":\"assistant\",\"text\":\"%s%s\"}\n\n", bareEpoch, seq, token, stamp())
		chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(frame), frame)
		for _, conn := range conns {
			if _, err := conn.Write(chunk); err != nil {
				for _, c := range conns {
					_ = c.Close()
				}
				return
			}
		}
	}
}
