// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package golden

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

// reach says how a case is reached.
type reach struct {
	base, bundle string
	options      provider.Options
	// idle is the silence allowed; above 0 the attempt is made by the pool.
	idle time.Duration
}

// stage is where one case is played.
type stage struct {
	ends []func()
	// heard is closed by the first part that the client handed over.
	heard chan struct{}
	once  sync.Once
	// over is closed when the attempt has ended.
	over chan struct{}
}

func newStage() *stage { return &stage{heard: make(chan struct{}), over: make(chan struct{})} }

func (s *stage) hear() { s.once.Do(func() { close(s.heard) }) }

func (s *stage) close() {
	s.hear()
	close(s.over)
	for _, end := range slices.Backward(s.ends) {
		end()
	}
}

// serve starts an HTTP server and returns its address.
func (s *stage) serve(handler http.HandlerFunc) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Until the request is read, a server does not see that the client left.
		_, _ = io.Copy(io.Discard, r.Body)
		handler(w, r)
	}))
	server.Config.ErrorLog = silent
	s.ends = append(s.ends, server.Close)
	return server.URL
}

// silent takes what servers say of connections that break, as they should.
var silent = log.New(io.Discard, "", 0)

// secure starts a TLS server, which speaks HTTP/2 as well, and returns its
// port and certificate. The certificate is for example.com.
func (s *stage) secure(handler http.HandlerFunc) (server *httptest.Server, port, bundle string) {
	server = httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = silent
	server.StartTLS()
	s.ends = append(s.ends, server.Close)
	_, port, _ = net.SplitHostPort(server.Listener.Addr().String())
	return server, port, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

// loopback listens at a free port.
func loopback() net.Listener {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // Without loopback there is nothing to play on.
	}
	return l
}

// listen runs a server that speaks in bytes, and returns its address.
func (s *stage) listen(handle func(net.Conn)) string {
	l := loopback()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
			_ = conn.Close()
		}
	}()
	s.ends = append(s.ends, func() { _ = l.Close(); <-ended })
	return l.Addr().String()
}

// closed returns an address at which nobody listens.
func (s *stage) closed() string {
	l := loopback()
	_ = l.Close()
	return l.Addr().String()
}

// swallow reads one request.
func swallow(conn net.Conn) {
	if request, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
		_, _ = io.Copy(io.Discard, request.Body)
	}
}

// reset makes the close of a connection a reset.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// http2 runs a server that answers every HTTP/2 request with one frame.
func (s *stage) http2(answer func(stream uint32) []byte) reach {
	certified, _, bundle := s.secure(http.NotFound)
	config := &tls.Config{Certificates: certified.TLS.Certificates, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	address := s.listen(func(conn net.Conn) {
		secure := tls.Server(conn, config)
		r := bufio.NewReader(secure)
		if _, err := r.Discard(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); err != nil {
			return
		}
		_, _ = secure.Write(frame(4, 0, nil)) // SETTINGS
		for {
			var head [9]byte
			if _, err := io.ReadFull(r, head[:]); err != nil {
				return
			}
			if _, err := r.Discard(int(head[0])<<16 | int(head[1])<<8 | int(head[2])); err != nil {
				return
			}
			if head[3] == 1 { // HEADERS
				_, _ = secure.Write(answer(binary.BigEndian.Uint32(head[5:])))
			}
		}
	})
	_, port, _ := net.SplitHostPort(address)
	return reach{base: "https://example.com:" + port, bundle: bundle}
}

// frame is an HTTP/2 frame.
func frame(kind byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, 0}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// guarded makes the attempt as the operator does, with its silence guard.
func (s *stage) guarded(ctx context.Context, client provider.Caller, to provider.Endpoint, idle time.Duration) (Got, error) {
	nudged := make(chan struct{}, 1)
	pool := streamer.NewPool(client, streamer.NewHub(), func(streamer.Run) {
		select {
		case nudged <- struct{}{}:
		default:
		}
	})
	defer func() { _ = pool.Shutdown(ctx) }()
	run := streamer.Run{UID: "u", Namespace: "n", Name: "r"}
	if err := pool.Start(streamer.Attempt{Run: run, Number: 1, Endpoint: to, Request: Ask, IdleTimeout: idle}); err != nil {
		return Got{}, err
	}
	select {
	case <-nudged:
	case <-ctx.Done():
		return Got{}, context.Cause(ctx)
	}
	seen, _ := pool.Look(run.Namespace, run.Name)
	o := seen.Outcome
	return Got{Text: o.Text, Result: provider.Result{FinishReason: o.FinishReason, Usage: o.Usage}, Failure: o.Failure}, nil
}

// Resolver answers for the names of the cases alone, and asks nobody:
// example.com and other.example are this machine, dns-is-down.example is a
// server failure, every other name does not exist.
func Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe() // No packets, so DNS frames its messages as on TCP.
		go func() {
			defer there.Close() //nolint:errcheck // A pipe has nothing to lose.
			var size [2]byte
			for {
				if _, err := io.ReadFull(there, size[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(there, query); err != nil {
					return
				}
				reply := resolve(query)
				if _, err := there.Write(binary.BigEndian.AppendUint16(nil, uint16(len(reply)))); err != nil {
					return
				}
				if _, err := there.Write(reply); err != nil {
					return
				}
			}
		}()
		return here, nil
	}}
}

// resolve answers one DNS query.
func resolve(query []byte) []byte {
	const header, typeA = 12, 1
	var labels []string
	end := header
	for query[end] != 0 {
		size := int(query[end])
		labels = append(labels, string(query[end+1:end+1+size]))
		end += 1 + size
	}
	end += 5 // the root, the type and the class
	kind := binary.BigEndian.Uint16(query[end-4:])
	reply := slices.Clone(query[:end])
	copy(reply[2:header], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}) // an answer, one question, no records
	switch strings.Join(labels, ".") {
	case "example.com", "other.example":
		if kind == typeA {
			reply[7] = 1 // one record: the name at 12, A, IN, a minute, 127.0.0.1
			reply = append(reply, 0xc0, header, 0, typeA, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1)
		}
	case "dns-is-down.example":
		reply[3] |= 2 // SERVFAIL
	default:
		reply[3] |= 3 // NXDOMAIN
	}
	return reply
}
