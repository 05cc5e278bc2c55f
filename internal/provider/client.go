// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"chatrun.dev/operator/internal/chatretry"
)

// maxAnswerBody bounds the body of a call that does not stream.
const maxAnswerBody = 8 << 20

// errHeaderTimeout is the cause of a call's end at Options.HeaderTimeout.
var errHeaderTimeout = errors.New("no response header within the time allowed")

// Client calls providers. It is safe for concurrent use.
type Client struct {
	userAgent     string
	headerTimeout time.Duration
	routes        routes
}

var _ Caller = (*Client)(nil)

// New returns a client. It fails on options that cannot be read.
func New(options Options) (*Client, error) {
	c := &Client{userAgent: options.UserAgent, headerTimeout: options.HeaderTimeout}
	if c.userAgent == "" {
		c.userAgent = DefaultUserAgent
	}
	c.routes.connectTimeout = cmp.Or(max(options.ConnectTimeout, 0), DefaultConnectTimeout)
	if options.EgressProxy != "" {
		proxy, err := url.Parse(options.EgressProxy)
		if err != nil || proxy.Scheme != "http" || proxy.Hostname() == "" {
			// Without the cause, which repeats the URL and a password in it.
			return nil, errors.New("the egress proxy must be an absolute URL with scheme http")
		}
		c.routes.proxy = proxy
	}
	var err error
	if c.routes.noProxy, err = newNoProxy(options.NoProxy); err != nil {
		return nil, err
	}
	if c.routes.guard, err = newGuard(options.DenyCIDRs); err != nil {
		return nil, err
	}
	c.routes.known = make(map[routeKey]*route)
	c.routes.dial = func(d *net.Dialer, ctx context.Context, network, address string) (net.Conn, error) {
		return d.DialContext(ctx, network, address)
	}
	return c, nil
}

// Close closes connections that no stream uses.
func (c *Client) Close() { c.routes.closeIdle() }

// vendor is one protocol.
type vendor struct {
	defaultBase string
	// path returns what follows a base URL's own path.
	path func(basePath string) string
	// body returns the JSON of a request.
	body func(to Endpoint, ask Request, stream bool) ([]byte, error)
	// authorise sets the headers that are the vendor's own.
	authorise func(http.Header, Key)
	// answer returns the reader of one answer.
	answer func(*call) answer
	// codes maps error codes and types, in lower case, to classes. Generic
	// ones are left to the HTTP status.
	codes map[string]chatretry.Class
}

// answer reads one answer. It is pure: bytes in, parts and a verdict out.
type answer interface {
	// event takes an event of a stream, and reports whether it was the last.
	event(e event, part func(Part)) (last bool, failure *chatretry.Failure)
	// end judges a stream whose body ended without a last event.
	end() *chatretry.Failure
	// whole takes the body of an answer that was not streamed; it returns
	// errNotAnAnswer for anything else.
	whole(body []byte) (string, *chatretry.Failure)
	// result returns what was reported so far.
	result() Result
}

// errNotAnAnswer says that a body is none of the vendor's answers.
var errNotAnAnswer = &chatretry.Failure{Class: chatretry.InvalidRequest}

// call is one call under way.
type call struct {
	to     Endpoint
	ask    Request
	vendor *vendor
	url    *url.URL
	body   []byte
	stream bool
}

// newCall checks what can be checked without asking anybody.
func newCall(to Endpoint, ask Request, stream bool) (*call, *chatretry.Failure) {
	c := &call{to: to, ask: ask, stream: stream}
	switch to.Type {
	case OpenAI:
		c.vendor = &openAI
	case Anthropic:
		c.vendor = &anthropic
	default:
		return nil, c.fail(chatretry.InvalidRequest, "%s is of a type that is not known", "set type to OpenAI or Anthropic")
	}
	base := to.BaseURL
	if base == "" {
		base = c.vendor.defaultBase
	}
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" ||
		u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, c.fail(chatretry.InvalidRequest, "the baseURL of %s cannot be used",
			"set an absolute http or https URL without user, query and fragment")
	}
	c.url = u.JoinPath(c.vendor.path(u.Path))
	if !validHeaderValue(to.Key.Reveal()) {
		return nil, c.fail(chatretry.AuthenticationFailed, "the key of %s holds characters that no HTTP header may carry", "")
	}
	for _, h := range to.Headers {
		if !validHeaderName(h.Name) || !validHeaderValue(h.Value) {
			return nil, c.fail(chatretry.InvalidRequest, "a header of %s cannot be sent", "check the names and values in headers")
		}
	}
	if c.body, err = c.vendor.body(to, ask, stream); err != nil {
		return nil, c.failCause(chatretry.InvalidRequest, "the request to %s cannot be written", "check parameters", err)
	}
	return c, nil
}

// Stream makes one streaming call.
func (c *Client) Stream(ctx context.Context, to Endpoint, ask Request, part func(Part)) (Result, error) {
	call, failure := newCall(to, ask, true)
	if failure != nil {
		return Result{}, failure
	}
	try, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	response, err := c.send(try, cancel, call)
	if err != nil {
		return Result{}, ended(ctx, err)
	}
	defer response.Body.Close() //nolint:errcheck // Nothing is left to lose.
	events := newEventReader(response.Body)
	if failure := call.checkStream(response, events, cancel); failure != nil {
		return Result{}, ended(ctx, failure)
	}
	answer := call.vendor.answer(call)
	if failure := call.read(events, answer, part); failure != nil {
		failure.HTTPStatus = response.StatusCode
		return answer.result(), ended(ctx, failure)
	}
	drain(response.Body, cancel)
	return answer.result(), nil
}

// Complete makes one call that does not stream.
func (c *Client) Complete(ctx context.Context, to Endpoint, ask Request) (string, Result, error) {
	call, failure := newCall(to, ask, false)
	if failure != nil {
		return "", Result{}, failure
	}
	try, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	response, err := c.send(try, cancel, call)
	if err != nil {
		return "", Result{}, ended(ctx, err)
	}
	defer response.Body.Close() //nolint:errcheck // Nothing is left to lose.
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBody+1))
	switch {
	case err != nil:
		return "", Result{}, ended(ctx, call.interrupted(err))
	case len(body) > maxAnswerBody:
		return "", Result{}, call.fail(chatretry.InvalidRequest, "%s sent an answer above 8 MiB", "lower parameters.maxOutputTokens")
	}
	answer := call.vendor.answer(call)
	text, failure := answer.whole(body)
	if failure == errNotAnAnswer {
		failure = call.odd(response, body, "%s answered with something that is no answer")
	}
	if failure != nil {
		failure.HTTPStatus = response.StatusCode
		return "", answer.result(), ended(ctx, failure)
	}
	return text, answer.result(), nil
}

// ended returns the cause of the caller's context if that is what ended the
// call, and the error otherwise.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// send makes the one request, and returns the answer if it is a good one.
func (c *Client) send(ctx context.Context, cancel context.CancelCauseFunc, call *call) (*http.Response, error) {
	if c.headerTimeout > 0 && call.stream {
		timer := time.AfterFunc(c.headerTimeout, func() { cancel(errHeaderTimeout) })
		defer timer.Stop()
	}
	route, err := c.routes.to(call.url, call.to.CABundle)
	if err != nil {
		return nil, call.unreachable(err)
	}
	response, err := route.roundTrip(func(rewind bool) (*http.Request, error) {
		return c.request(ctx, call, rewind)
	})
	if err != nil {
		if context.Cause(ctx) == errHeaderTimeout { //nolint:errorlint // Identity is meant.
			err = errHeaderTimeout
		}
		return nil, call.unreachable(err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close() //nolint:errcheck // Nothing is left to lose.
	return nil, call.refused(response, cancel)
}

// request writes the HTTP request.
func (c *Client) request(ctx context.Context, call *call, rewind bool) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, call.url.String(), bytes.NewReader(call.body))
	if err != nil {
		return nil, err
	}
	if !rewind {
		request.GetBody = nil
	}
	for _, header := range call.to.Headers {
		if !reserved(header.Name) {
			request.Header.Add(header.Name, header.Value)
		}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	if call.stream {
		request.Header.Set("Accept", "text/event-stream")
	}
	request.Header.Set("User-Agent", c.userAgent)
	call.vendor.authorise(request.Header, call.to.Key)
	return request, nil
}

// reservedHeaders are ours, or the connection's; nobody's headers replace them.
var reservedHeaders = []string{
	"Accept", "Accept-Encoding", "Anthropic-Version", "Api-Key", "Authorization", "Connection", "Content-Length",
	"Content-Type", "Cookie", "Expect", "Host", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Te",
	"Trailer", "Transfer-Encoding", "Upgrade", "User-Agent", "X-Api-Key",
}

func reserved(name string) bool {
	return slices.Contains(reservedHeaders, http.CanonicalHeaderKey(name))
}

// validHeaderName reports whether a name is a token, as HTTP demands.
func validHeaderName(name string) bool {
	return name != "" && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") == ""
}

// validHeaderValue reports whether a value may stand in an HTTP header.
func validHeaderValue(value string) bool {
	for i := range len(value) {
		if b := value[i]; b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return true
}

// read hands the parts of a stream over until its last event.
func (c *call) read(events *eventReader, answer answer, part func(Part)) *chatretry.Failure {
	for {
		e, err := events.next()
		switch {
		case err == nil:
			if last, failure := answer.event(e, part); last || failure != nil {
				return failure
			}
		case errors.Is(err, io.EOF):
			// Some gateways end with an error and without the empty line.
			if f, ok := parseFault(events.rest()); ok && f.explicit {
				return c.blame(f, events.rest())
			}
			return answer.end()
		default:
			// An answer that was whole before the connection broke stays whole.
			if failure := answer.end(); failure == nil || failure.Class != chatretry.StreamInterrupted {
				return failure
			}
			return c.interrupted(err)
		}
	}
}
