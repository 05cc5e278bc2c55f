// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package traces

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/proto"

	"chatrun.dev/operator/internal/chatretry"
)

const (
	// defaultPath is that of traces by OpenTelemetry's protocol.
	defaultPath = "/v1/traces"
	// requestTime bounds one request to a collector, ten seconds as its specification
	// has it, and exportTime all that are made for one batch.
	requestTime = 10 * time.Second
	exportTime  = 30 * time.Second
	// maxQueued bounds the spans that wait, some 4 MiB. Those beyond it are lost:
	// nothing waits for a collector.
	maxQueued = 2048
	// maxBatch bounds those of one request, batchTime how long one waits for others.
	maxBatch  = 512
	batchTime = 5 * time.Second
	// maxHeadersFile bounds what is read of one.
	maxHeadersFile = 64 << 10
	// maxAnswer bounds what is read of a collector's answer, so that its connection
	// can be used again.
	maxAnswer = 4 << 10
)

// Collector takes spans, by OpenTelemetry's protocol over HTTP.
type Collector struct {
	// URL is where; a collector's address alone stands for its path of traces.
	URL string
	// HeadersFile holds lines of NAME: VALUE, for the keys of hosted ones. It is read
	// before each request, so that keys can change; empty is none.
	HeadersFile string
	// CAFile holds the authorities of its certificate, in PEM; empty is the system's.
	CAFile string
	// Ratio is the share of the traces that are sent, from 0 to 1. One that goes on
	// from another's is sent if that one is.
	Ratio float64
}

// To returns Traces whose spans a collector is sent, in the name of what is described;
// $OTEL_RESOURCE_ATTRIBUTES and $OTEL_SERVICE_NAME say more of it, or otherwise.
func To(c Collector, about *resource.Resource) (*Traces, error) {
	if !(c.Ratio >= 0 && c.Ratio <= 1) {
		return nil, errors.New("the share of traces is to be from 0 to 1")
	}
	up, err := c.uploader()
	if err != nil {
		return nil, err
	}
	about, err = resource.Merge(about, resource.Environment())
	if err != nil {
		return nil, fmt.Errorf("describing who sends spans: %w", err)
	}
	exporter, err := otlptrace.New(context.Background(), up)
	if err != nil {
		return nil, err
	}
	t := New(
		sdktrace.WithResource(about),
		// All of it is said, so that nothing is taken from the environment.
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.Ratio))),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{
			AttributeValueLengthLimit: sdktrace.DefaultAttributeValueLengthLimit,
			AttributeCountLimit:       sdktrace.DefaultAttributeCountLimit,
		}),
		sdktrace.WithBatcher(exporter, sdktrace.WithMaxQueueSize(maxQueued),
			sdktrace.WithMaxExportBatchSize(maxBatch), sdktrace.WithBatchTimeout(batchTime), sdktrace.WithExportTimeout(exportTime)),
	)
	t.abandon = up.end
	return t, nil
}

// uploader makes the requests. The library's own, otlptracehttp, is the same with
// gRPC compiled in, which are 30 MB.
type uploader struct {
	url         string
	headersFile string
	client      *http.Client
	// life ends when what was not taken is given up.
	life context.Context
	end  context.CancelFunc
}

func (c Collector) uploader() (*uploader, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the collector's address is to be a URL such as http://collector.example:4318, with neither user nor query")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = defaultPath
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: requestTime}).DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 1, // batches go one after the other
		IdleConnTimeout:     time.Minute,
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the collector's authorities: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", c.CAFile)
		}
	}
	life, end := context.WithCancel(context.Background())
	up := &uploader{life: life, end: end, url: u.String(), headersFile: c.HeadersFile, client: &http.Client{
		Transport: transport, Timeout: requestTime,
		// A key is not carried elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if _, err = up.headers(); err != nil {
		end()
	}
	return up, err
}

// Start has nothing to do.
func (*uploader) Start(context.Context) error { return nil }

// Stop is told that no request follows.
func (u *uploader) Stop(context.Context) error {
	u.end()
	u.client.CloseIdleConnections()
	return nil
}

// UploadTraces sends spans. What a collector refuses for the moment is sent again
// until ctx ends.
func (u *uploader) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// On the wire this is the request of the protocol, whose own type brings gRPC.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return fmt.Errorf("encoding spans: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(u.life, cancel)()
	var last error
	err = chatretry.Retry(ctx, func(ctx context.Context) error { return u.post(ctx, body) },
		func(_ int, err error, _ time.Duration) { last = err })
	if ctx.Err() != nil && last != nil {
		return last // which says more than that the time is over
	}
	return err
}

func (u *uploader) post(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if req.Header, err = u.headers(); err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("User-Agent", "chatrun-operator")
	answer, err := u.client.Do(req)
	if err != nil {
		return &chatretry.Failure{Class: chatretry.ConnectionError, Message: "the collector cannot be reached: " + unreached(err), Err: err}
	}
	defer func() { _ = answer.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer))
	switch code := answer.StatusCode; code {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return &chatretry.Failure{Class: chatretry.Overloaded, HTTPStatus: code, Message: "the collector answers " + http.StatusText(code)}
	default:
		// Its words are not repeated: they may hold the key that it refuses.
		return &chatretry.Failure{Class: chatretry.InvalidRequest, HTTPStatus: code, Message: "the collector answers " + http.StatusText(code)}
	}
}

// unreached says why a request had no answer, in words of our own.
func unreached(err error) string {
	var timeout interface{ Timeout() bool }
	_, certificate := errors.AsType[*tls.CertificateVerificationError](err)
	_, name := errors.AsType[*net.DNSError](err)
	switch {
	case certificate:
		return "its certificate is refused"
	case name:
		return "its name leads nowhere"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection is refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "it takes too long"
	}
	return "the connection failed"
}

// headers reads the headers to send.
func (u *uploader) headers() (http.Header, error) {
	if u.headersFile == "" {
		return http.Header{}, nil
	}
	file, err := os.Open(u.headersFile)
	if err != nil {
		return nil, fmt.Errorf("reading the headers for the collector: %w", err)
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxHeadersFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the headers for the collector: %w", err)
	}
	if len(text) > maxHeadersFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", u.headersFile, maxHeadersFile)
	}
	all := http.Header{}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, value, found := strings.Cut(line, ":")
		if value = strings.TrimSpace(value); !found || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			// The line may hold a key.
			return nil, fmt.Errorf("%s does not hold lines of NAME: VALUE alone", u.headersFile)
		}
		all.Add(name, value)
	}
	return all, nil
}

var _ otlptrace.Client = (*uploader)(nil)
