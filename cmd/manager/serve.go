// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"

	"chatrun.dev/operator/internal/streamer"
)

const (
	// streamHeaderTimeout is how long a header may take, and the TLS handshake
	// before it.
	streamHeaderTimeout = 10 * time.Second
	// streamHeaderBytes holds a token with very many claims, or a ticket, and what
	// proxies add; more is answered with 431.
	streamHeaderBytes = 32 << 10
	// streamIdle ends connections between two requests.
	streamIdle = 2 * time.Minute
	// streamGrace is for readers to take what is written to them at shutdown. The
	// hand-over of runs comes after it, and both have to fit into 30 s.
	streamGrace = 5 * time.Second
	// streamPing is when a silent peer is asked whether it is still there,
	// streamPong how long it may take to say so. Readers say nothing themselves.
	streamPing, streamPong = 30 * time.Second, 15 * time.Second
	// streamsPerConnection is for the API server, which sends all its users'
	// requests over few connections; a further one is opened beyond it.
	streamsPerConnection = 1000
	// streamReload is how often a certificate is read again even if the file
	// system tells of no change.
	streamReload = 10 * time.Second
	// streamWindow bounds what a peer may send unread: bodies are small.
	streamWindow = 64 << 10
	// streamSocketBytes bounds what the kernel holds of a stream that is not read:
	// two writes, and some 1 MB/s to a reader on the far side of the world.
	streamSocketBytes = 128 << 10
)

// streamServer serves the stream endpoint. Every replica does.
type streamServer struct {
	address string
	handler http.Handler
	// streams is within handler; nil where that is another one.
	streams *streamer.Handler
	// secure makes it serve HTTPS, with the certificate of these files, or with
	// one of its own. change may change how.
	secure            bool
	certFile, keyFile string
	change            func(*tls.Config)
	// config is how HTTPS is served, instead of all that; nil leaves it to that.
	config *tls.Config
	// name is what stands in errors; empty is the stream endpoint.
	name string
	// closing tells readers of the end, before the connections are closed.
	closing func()
	log     logr.Logger

	headerTimeout, grace time.Duration
	// reload is how often the certificate is read again in any case.
	reload time.Duration
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: there is no leader.
func (*streamServer) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable.
func (s *streamServer) Start(ctx context.Context) error {
	// TCP's own probes find peers that vanished from HTTP/1.1 connections.
	config := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: streamPing, Interval: streamPong / 3, Count: 3}}
	listener, err := config.Listen(ctx, "tcp", s.address)
	if err != nil {
		return fmt.Errorf("opening the %s: %w", s.called(), err)
	}
	return s.serve(ctx, listener)
}

func (s *streamServer) called() string { return cmp.Or(s.name, "stream endpoint") }

// serve serves until ctx ends, and then ends the readers in order.
func (s *streamServer) serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	server := s.server(ctx)
	serve := server.Serve
	if s.secure {
		config, err := s.tls(ctx, &beside)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		server.TLSConfig = config
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	s.log.Info("serving", "address", listener.Addr().String(), "https", s.secure)
	failed := make(chan error, 1)
	go func() { failed <- serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving the %s: %w", s.called(), err)
	case <-ctx.Done():
	}
	s.closing()
	grace, end := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer end()
	err := server.Shutdown(grace)
	if err != nil {
		err = server.Close()
	}
	if ended := <-failed; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// server returns the server with its bounds. The context of its requests does
// not end with ctx: readers get to know of the end from closing.
func (s *streamServer) server(ctx context.Context) *http.Server {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(s.secure)
	return &http.Server{
		Handler:           s.handler,
		Protocols:         protocols,
		ReadHeaderTimeout: s.headerTimeout,
		MaxHeaderBytes:    streamHeaderBytes,
		IdleTimeout:       streamIdle,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          streamsPerConnection,
			MaxReceiveBufferPerConnection: streamWindow,
			MaxReceiveBufferPerStream:     streamWindow,
			SendPingTimeout:               streamPing,
			PingTimeout:                   streamPong,
			WriteByteTimeout:              streamPong,
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			boundBuffer(c)
			return ctx
		},
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ErrorLog:    stdlog.New(complaints{s.log}, "", 0),
	}
}

// boundBuffer bounds what the kernel takes for a reader that does not read, which
// is some megabytes by itself. A connection without such a buffer is of a test.
func boundBuffer(c net.Conn) {
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn()
	}
	if buffered, ok := c.(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = buffered.SetWriteBuffer(streamSocketBytes)
	}
}

// tls returns how HTTPS is served. What it starts ends with ctx.
func (s *streamServer) tls(ctx context.Context, beside *sync.WaitGroup) (*tls.Config, error) {
	if s.config != nil {
		return s.config, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if s.certFile == "" {
		own, err := selfSigned()
		if err != nil {
			return nil, fmt.Errorf("making a certificate for the stream endpoint: %w", err)
		}
		config.Certificates = []tls.Certificate{own}
	} else {
		files, err := certwatcher.New(s.certFile, s.keyFile)
		if err != nil {
			return nil, fmt.Errorf("reading the stream endpoint's certificate: %w", err)
		}
		config.GetCertificate = files.GetCertificate
		beside.Go(func() {
			if err := files.WithWatchInterval(s.reload).Start(ctx); err != nil && ctx.Err() == nil {
				s.log.Error(err, "watching the certificate: a new one is not taken before the next start")
			}
		})
	}
	if s.change != nil {
		s.change(config)
	}
	return config, nil
}

// selfSigned returns a certificate that keeps out whoever only listens. Nobody
// can verify it: who has to, needs --stream-cert-dir.
func selfSigned() (tls.Certificate, error) {
	cert, key, err := certutil.GenerateSelfSignedCertKeyWithFixtures("localhost", []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, nil, "")
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// complaints takes what net/http says of connections: mostly of clients that
// speak plain HTTP or do not like the certificate. A panic is ours.
type complaints struct{ log logr.Logger }

// Write implements io.Writer.
func (c complaints) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	if strings.HasPrefix(line, "http: panic serving") {
		c.log.Error(errors.New(line), "a request ended in a panic")
	} else {
		c.log.V(1).Info("connection", "problem", line)
	}
	return len(p), nil
}
