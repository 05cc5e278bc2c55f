// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Settings for thousands of streams at once, each measured on a loopback.
const (
	// maxRoutes bounds the transports that are kept: whoever may create
	// ChatProviders chooses hosts. The one unused for longest goes.
	maxRoutes = 256
	// maxIdleConnsPerHost is above the streams that one replica holds to one
	// host, or every wave of streams dials anew. Idle ones close after idleTime.
	maxIdleConnsPerHost = 4096
	idleTime            = 90 * time.Second
	// maxConnsPerHTTP2Host keeps a cold burst from dialling once a stream: 1,000
	// streams made 1,613 connections. It must never bound HTTP/1.1, where it
	// would make a stream wait in silence; see route.
	maxConnsPerHTTP2Host = 8
	// streamWindow bounds what one stalled HTTP/2 stream may hold in memory.
	streamWindow = 64 << 10
	// Small buffers: an HTTP/1.1 stream costs 30 KB instead of 35.
	readBuffer, writeBuffer = 2 << 10, 1 << 10
	// maxHeaderBytes bounds a response header.
	maxHeaderBytes = 64 << 10
	// pingAfter and pingTimeout find a dead connection, which would strand all
	// of its streams; on HTTP/1.1 the probes of TCP do.
	pingAfter, pingTimeout = 15 * time.Second, 15 * time.Second
)

// errNotHTTP2 says that a host does not speak HTTP/2. It ends the handshake,
// so nothing of the request was sent.
var errNotHTTP2 = errors.New("host speaks HTTP/1.1 alone")

// proxyError is the refusal of a CONNECT by the egress proxy.
type proxyError struct{ status int }

func (e *proxyError) Error() string {
	return fmt.Sprintf("egress proxy answered CONNECT with HTTP %d", e.status)
}

// routeKey is what a connection depends on.
type routeKey struct{ scheme, host, caBundle string }

// route is the way to one host.
//
// The number of connections is bounded for HTTP/2 alone, and which protocol a
// host speaks is known only after a handshake. So there are two transports:
// http2 refuses, in the handshake, every connection that is not HTTP/2, and at
// the first such refusal the whole route falls back to http1 for good.
type route struct {
	http1 *http.Transport
	// http2 is nil where HTTP/2 is not wanted.
	http2 *http.Transport
	// onlyHTTP1 is set once the host turned out not to speak HTTP/2.
	onlyHTTP1 atomic.Bool
	// used orders the routes by their last use.
	used uint64
}

// roundTrip sends the request that build makes, by the protocol that the host
// speaks. build is called once a try, and only a first try that sent nothing is
// followed by a second. rewind says that the transport may send the request
// again on a new connection if the old one took none of it.
func (r *route) roundTrip(build func(rewind bool) (*http.Request, error)) (*http.Response, error) {
	if r.http2 != nil && !r.onlyHTTP1.Load() {
		// Without rewind: net/http would repeat a stream that the host refused
		// up to six times, unseen by everybody who counts attempts.
		request, err := build(false)
		if err != nil {
			return nil, err
		}
		response, err := r.http2.RoundTrip(request)
		if !errors.Is(err, errNotHTTP2) {
			return response, err
		}
	}
	request, err := build(true)
	if err != nil {
		return nil, err
	}
	return r.http1.RoundTrip(request)
}

func (r *route) closeIdle() {
	r.http1.CloseIdleConnections()
	if r.http2 != nil {
		r.http2.CloseIdleConnections()
	}
}

// routes makes routes and keeps them.
type routes struct {
	guard   guard
	proxy   *url.URL // nil: none
	noProxy noProxy
	// connectTimeout bounds a dial, and a TLS handshake.
	connectTimeout time.Duration
	// dial is the dialer's, or a test's.
	dial func(d *net.Dialer, ctx context.Context, network, address string) (net.Conn, error)

	mu    sync.Mutex
	known map[routeKey]*route
	clock uint64
}

// to returns the route to a URL.
func (rs *routes) to(target *url.URL, caBundle string) (*route, error) {
	proxy := rs.proxy
	if rs.noProxy.covers(target) {
		proxy = nil
	}
	if proxy != nil && rs.guard.refusesName(target.Hostname()) {
		return nil, ErrTargetRefused
	}
	key := routeKey{target.Scheme, target.Host, caBundle}
	if r := rs.find(key); r != nil {
		return r, nil
	}
	roots, err := trustedRoots(caBundle) // Slow, so not under the lock.
	if err != nil {
		return nil, err
	}
	return rs.add(key, rs.newRoute(target, proxy, roots)), nil
}

// find returns a known route, and notes its use.
func (rs *routes) find(key routeKey) *route {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.known[key]
	if r != nil {
		rs.clock++
		r.used = rs.clock
	}
	return r
}

// add keeps a new route, unless another call was faster, and returns the one
// that counts.
func (rs *routes) add(key routeKey, r *route) *route {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if known := rs.known[key]; known != nil {
		r = known
	} else if len(rs.known) >= maxRoutes {
		rs.evict()
	}
	rs.clock++
	r.used = rs.clock
	rs.known[key] = r
	return r
}

// evict forgets the route that was used the longest time ago. Its streams go
// on, and its connections close once they are idle.
func (rs *routes) evict() {
	var oldest routeKey
	for key, r := range rs.known {
		if o := rs.known[oldest]; o == nil || r.used < o.used {
			oldest = key
		}
	}
	rs.known[oldest].closeIdle()
	delete(rs.known, oldest)
}

func (rs *routes) closeIdle() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range rs.known {
		r.closeIdle()
	}
}

func (rs *routes) newRoute(target, proxy *url.URL, roots *x509.CertPool) *route {
	dialer := &net.Dialer{Timeout: rs.connectTimeout, ControlContext: rs.guard.control}
	if proxy != nil {
		// The proxy is named by the operator's own flags.
		dialer.ControlContext = nil
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return rs.dial(dialer, ctx, network, address)
	}
	r := &route{http1: rs.newTransport(dial, proxy, roots)}
	r.http1.Protocols = new(http.Protocols)
	r.http1.Protocols.SetHTTP1(true)
	if target.Scheme != "https" || inCluster(target.Hostname()) {
		return r
	}
	r.http2 = rs.newTransport(func(ctx context.Context, network, address string) (net.Conn, error) {
		// Those who waited for a place while the first learned it dial no more.
		if r.onlyHTTP1.Load() {
			return nil, errNotHTTP2
		}
		return dial(ctx, network, address)
	}, proxy, roots)
	r.http2.Protocols = new(http.Protocols)
	r.http2.Protocols.SetHTTP1(true) // Offered, so that the handshake tells us.
	r.http2.Protocols.SetHTTP2(true)
	r.http2.MaxConnsPerHost = maxConnsPerHTTP2Host
	r.http2.HTTP2 = &http.HTTP2Config{
		MaxReceiveBufferPerStream: streamWindow,
		SendPingTimeout:           pingAfter,
		PingTimeout:               pingTimeout,
	}
	r.http2.TLSClientConfig.VerifyConnection = func(state tls.ConnectionState) error {
		if state.NegotiatedProtocol == "h2" {
			return nil
		}
		r.onlyHTTP1.Store(true)
		return errNotHTTP2
	}
	return r
}

// newTransport returns a transport with the settings of both protocols. It
// knows no environment, no cookies, no redirects and no compression.
func (rs *routes) newTransport(dial func(context.Context, string, string) (net.Conn, error), proxy *url.URL, roots *x509.CertPool) *http.Transport {
	t := &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    rs.connectTimeout,
		DisableCompression:     true, // It would hold tokens back.
		MaxIdleConnsPerHost:    maxIdleConnsPerHost,
		IdleConnTimeout:        idleTime,
		ReadBufferSize:         readBuffer,
		WriteBufferSize:        writeBuffer,
		MaxResponseHeaderBytes: maxHeaderBytes,
	}
	if proxy != nil {
		t.Proxy = http.ProxyURL(proxy)
		t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, response *http.Response) error {
			if response.StatusCode == http.StatusOK {
				return nil
			}
			return &proxyError{response.StatusCode}
		}
	}
	return t
}

// errBadBundle says that a provider's caBundle holds nothing to trust.
var errBadBundle = errors.New("caBundle holds no PEM certificate")

// trustedRoots returns the system's authorities and those of the bundle; nil,
// which means the system's, for an empty one.
func trustedRoots(caBundle string) (*x509.CertPool, error) {
	if caBundle == "" {
		return nil, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM([]byte(caBundle)) {
		return nil, errBadBundle
	}
	return roots, nil
}
