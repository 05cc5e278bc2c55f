// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/singleflight"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"

	"chatrun.dev/operator/internal/streamer"
)

const (
	// dialTimeout bounds the way to another replica, with the handshake.
	dialTimeout = 5 * time.Second
	// answerTimeout bounds the wait for the header of its answer: it may have to ask
	// the API server who we are.
	answerTimeout = 10 * time.Second
	// answerHeaderBytes bounds that header, of some hundred bytes.
	answerHeaderBytes = 16 << 10
	// peerPing is when a silent replica is asked whether it is still there, peerPong
	// how long it may take to say so.
	peerPing, peerPong = 15 * time.Second, 10 * time.Second
	// peerConnections bounds the connections to one replica. One carries a thousand
	// runs; without a bound each run that is asked for while none stands dials its own.
	peerConnections = 8
	// peerIdle ends connections over which nothing is relayed.
	peerIdle = 2 * time.Minute
	// peerStreamWindow and peerWindow bound what may be unread of one run, and of
	// all that come over one connection. What comes is read at once.
	peerStreamWindow, peerWindow = 256 << 10, 16 << 20
	// goodFor and badFor are how long it is remembered that an address is a replica's,
	// and that one is not, or that nobody was there. A thousand runs of one replica
	// are then one question, and one attempt to reach it.
	goodFor, badFor = 10 * time.Second, time.Second
	// maxKnown bounds what is remembered.
	maxKnown = 1024
	// quiet is how long a failure that goes on is not logged again.
	quiet = time.Minute
	// maxTokenBytes is far above what the API server issues.
	maxTokenBytes = 16 << 10
)

// Addresses knows where the other replicas can be reached.
type Addresses interface {
	// Address returns the IP address and port of a live replica, and false if there
	// is no such replica, or it does not say.
	Address(worker string) (hostport string, ok bool)
}

// PeersOptions are what Peers go by.
type PeersOptions struct {
	// Client reads Pods in Namespace, which is this manager's own.
	Client    kubernetes.Interface
	Namespace string
	// Self says as whom the API server knows this manager.
	Self func(context.Context) (string, error)
	// Authority says which certificates are replicas'.
	Authority *Authority
	Addresses Addresses
	// TokenFile holds the token that is sent to other replicas. It is read each
	// time, as it is renewed.
	TokenFile string
	// Log gets what goes wrong. No token is ever written.
	Log logr.Logger
}

// Peers reaches other replicas. It implements streamer.Peers. The token leaves
// this replica only for an address that the API server knows as that of the Pod
// which has the replica's name, and only behind a certificate for that name.
type Peers struct {
	o         PeersOptions
	transport *http.Transport
	client    *http.Client
	// known are answers about addresses, by target and question: an error, or nil.
	known  *cache.LRUExpireCache
	asking singleflight.Group
}

// NewPeers returns peers that connect to nobody yet.
func NewPeers(o PeersOptions) *Peers {
	p := &Peers{o: o, known: cache.NewLRUExpireCache(maxKnown)}
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	p.transport = &http.Transport{
		// No Proxy: nothing between replicas is to see a token.
		DialTLSContext:         p.dial,
		MaxConnsPerHost:        peerConnections,
		Protocols:              protocols,
		ResponseHeaderTimeout:  answerTimeout,
		MaxResponseHeaderBytes: answerHeaderBytes,
		IdleConnTimeout:        peerIdle,
		DisableCompression:     true,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: peerWindow,
			MaxReceiveBufferPerStream:     peerStreamWindow,
			SendPingTimeout:               peerPing,
			PingTimeout:                   peerPong,
			WriteByteTimeout:              peerPong,
		},
	}
	p.client = &http.Client{
		Transport:     p.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p
}

// Close ends the connections over which nothing is relayed. Those that relay end
// with what is read.
func (p *Peers) Close() { p.transport.CloseIdleConnections() }

// Open implements streamer.Peers.
func (p *Peers) Open(ctx context.Context, owner string, run streamer.Run, after string) (io.ReadCloser, error) {
	body, err := p.open(ctx, owner, run, after)
	if err != nil && ctx.Err() == nil && !errors.Is(err, streamer.ErrNotOwner) {
		// Each run that is read meets it, again and again.
		if key := owner + " told"; !p.knows(key) {
			p.known.Add(key, nil, quiet)
			p.o.Log.Error(err, "a stream cannot be relayed from the replica that has its run", "replica", owner)
		}
	}
	return body, err
}

func (p *Peers) knows(key string) bool {
	_, ok := p.known.Get(key)
	return ok
}

func (p *Peers) open(ctx context.Context, owner string, run streamer.Run, after string) (io.ReadCloser, error) {
	// Each time, also where a connection stands: the Pod may be gone.
	if _, err := p.find(ctx, owner); err != nil {
		return nil, err
	}
	token, err := p.token()
	if err != nil {
		return nil, err
	}
	target := url.URL{
		Scheme: "https", Host: relayName(owner),
		Path:     streamer.RelayPath + run.Namespace + "/chatruns/" + run.Name,
		RawQuery: url.Values{"uid": {run.UID}}.Encode(),
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("asking replica %s: %w", owner, err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if after != "" {
		request.Header.Set("Last-Event-ID", after)
	}
	answer, err := p.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking replica %s: %w", owner, err)
	}
	if err := judge(answer); err != nil {
		_ = answer.Body.Close()
		return nil, fmt.Errorf("asking replica %s: %w", owner, err)
	}
	return answer.Body, nil
}

// judge says what an answer means that is not a stream.
func judge(answer *http.Response) error {
	switch answer.StatusCode {
	case http.StatusOK:
		if kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); err != nil || kind != "text/event-stream" {
			return errors.New("the answer is no stream")
		}
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w (HTTP %d)", streamer.ErrRefused, answer.StatusCode)
	case http.StatusNotFound, http.StatusMisdirectedRequest:
		return streamer.ErrNotOwner
	}
	return fmt.Errorf("HTTP %d", answer.StatusCode)
}

// token reads the token.
func (p *Peers) token() (string, error) {
	file, err := os.Open(p.o.TokenFile)
	if err != nil {
		return "", fmt.Errorf("reading the relay token: %w", err)
	}
	defer file.Close() //nolint:errcheck // it was only read
	raw, err := io.ReadAll(io.LimitReader(file, maxTokenBytes+1))
	token := string(bytes.TrimSpace(raw))
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the relay token: %w", err)
	case token == "" || len(raw) > maxTokenBytes || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }):
		return "", fmt.Errorf("the file %s holds no token", p.o.TokenFile)
	}
	return token, nil
}

// dial connects to the replica that a name in a request stands for.
func (p *Peers) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	worker, ok := strings.CutSuffix(host, "."+relayDomain)
	if !ok {
		return nil, fmt.Errorf("%s is no replica", host)
	}
	target, err := p.find(ctx, worker)
	if err != nil {
		return nil, err
	}
	key := worker + " " + target.String() + " reached"
	if known, ok := p.known.Get(key); ok {
		failed, _ := known.(error) // nothing else is ever added
		return nil, failed
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := p.handshake(ctx, network, worker, target)
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown && p.o.Authority.doubt(ctx) {
		conn, err = p.handshake(ctx, network, worker, target)
	}
	if err != nil {
		err = fmt.Errorf("reaching replica %s: %w", worker, err)
		// One who leaves says nothing of the replica.
		if !errors.Is(ctx.Err(), context.Canceled) {
			p.known.Add(key, err, badFor)
		}
		return nil, err
	}
	return conn, nil
}

func (p *Peers) handshake(ctx context.Context, network, worker string, target netip.AddrPort) (net.Conn, error) {
	config, err := p.o.Authority.clientConfig(ctx, worker)
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{Config: config}).DialContext(ctx, network, target.String())
}
