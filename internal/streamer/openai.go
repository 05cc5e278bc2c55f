// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"chatrun.dev/operator/api/stream"
)

// maxQuestion bounds the body of a request that clients of OpenAI's API send.
// It holds a conversation, of which nothing is wanted here.
const maxQuestion = 1 << 20

// readQuestion reads such a body for the two things in it that matter.
func readQuestion(w http.ResponseWriter, r *http.Request, q *query) (code int, err error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuestion))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return http.StatusRequestEntityTooLarge, errors.New("the body is larger than 1 MiB")
	}
	if err != nil {
		return http.StatusBadRequest, errors.New("the body could not be read")
	}
	var body struct {
		Stream        bool `json:"stream"`
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return http.StatusBadRequest, errors.New("the body is not the JSON of a chat completion")
	}
	if !body.Stream {
		return http.StatusBadRequest, errors.New("a run can be read as a stream only: set stream to true")
	}
	q.format, q.follow, q.usage = formatOpenAI, true, body.StreamOptions.IncludeUsage
	return 0, nil
}

// chunks is a stream of OpenAI's chat.completion.chunk objects.
type chunks struct {
	frame chunk
	usage bool
	// begun says that the first chunk, which has the role, was made.
	begun bool
}

// chunk is one object of the stream, with the names of OpenAI's API.
type chunk struct {
	ID      string      `json:"id"`
	Object  string      `json:"object"`
	Created int64       `json:"created"`
	Model   string      `json:"model"`
	Choices []choice    `json:"choices"`
	Usage   *chunkUsage `json:"usage,omitempty"`
}

type choice struct {
	Index        int     `json:"index"`
	Delta        delta   `json:"delta"`
	FinishReason *string `json:"finish_reason"`
}

type delta struct {
	Role    stream.Role `json:"role,omitempty"`
	Content string      `json:"content,omitempty"`
}

type chunkUsage struct {
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	TotalTokens      int64 `json:"total_tokens"`
}

func newChunks(run Run, usage bool) *chunks {
	return &chunks{
		frame: chunk{ID: "chatcmpl-" + run.UID, Object: "chat.completion.chunk", Created: time.Now().Unix()},
		usage: usage,
	}
}

// silence is a comment without an empty line after it: some clients of this API
// take an empty line for an event, whatever was before it.
func (*chunks) silence() []byte { return []byte(": keep-alive\n") }

func (c *chunks) text(model string, piece []byte) []byte {
	c.frame.Model = model
	d := delta{Content: string(piece)}
	if !c.begun {
		c.begun, d.Role = true, stream.RoleAssistant
	}
	return c.with(choice{Delta: d})
}

func (c *chunks) end(end End) []byte {
	c.frame.Model = end.Done.Model
	reason := "stop"
	if end.Done.FinishReason == finishLength {
		reason = "length"
	}
	last := c.with(choice{FinishReason: &reason})
	if u := end.Usage; u != nil && c.usage {
		c.frame.Usage = &chunkUsage{u.InputTokens, u.OutputTokens, u.InputTokens + u.OutputTokens}
		last = append(last, c.with()...)
	}
	return append(last, "data: [DONE]\n\n"...)
}

// broken is the error object that client libraries raise.
func (*chunks) broken(reason, message string) []byte {
	return data(map[string]any{"error": map[string]any{
		"message": message, "type": "run_error", "code": reason, "param": nil,
	}})
}

func (c *chunks) with(choices ...choice) []byte {
	c.frame.Choices = append([]choice{}, choices...)
	return data(c.frame)
}

// data returns a frame that has data alone.
func data(v any) []byte {
	return append(append([]byte("data: "), encode(v)...), "\n\n"...)
}
