// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"chatrun.dev/operator/internal/chatretry"
)

// errNotJSON says that an event was cut, or is nobody's.
var errNotJSON = errors.New("event of the stream is not JSON")

// judge says whether an answer that ended properly is a good one.
func (c *call) judge(reason FinishReason, refused, some bool) *chatretry.Failure {
	switch {
	case refused:
		return c.fail(chatretry.ContentFiltered, "", "")
	case some:
		return nil
	case reason == FinishLength:
		return c.fail(chatretry.EmptyAnswer, "%s spent its token limit before any text of the answer", "raise parameters.maxOutputTokens")
	default:
		return c.fail(chatretry.EmptyAnswer, "", "")
	}
}

// decimal makes a JSON number of a decimal number as text, "" of "". JSON
// knows fewer forms than people write: .5 and +1 are none of its.
func decimal(text string) (json.Number, error) {
	if text == "" {
		return "", nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) || strings.ContainsAny(text, "xX_") {
		return "", fmt.Errorf("%q is no decimal number", cut(text, maxName))
	}
	if json.Valid([]byte(text)) {
		return json.Number(text), nil
	}
	return json.Number(strconv.FormatFloat(n, 'f', -1, 64)), nil
}
